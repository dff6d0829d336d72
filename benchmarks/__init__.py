"""Side by side with torch: `python -m benchmarks` measures and writes docs/benchmarks/engine.md."""
