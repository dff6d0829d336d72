"""What a batched program computed, and in which groups."""

from __future__ import annotations

from collections import Counter

SHOWN = 5  # lines of the program that read values


class Report:
    """How the calls of one `dp.batched` were computed.

    Attributes:
        flushes: how often calls were computed: once, and once more for every time that all examples waited for a value.
        batches: for every cell and operation the sizes of its batches, in order.
        kinds: how many signatures its calls had.
        alone: what ran one by one, and why, and how often.
        reads: the lines (file, number) that waited for a value, and how often: what asks for values splits batches.
    """

    def __init__(self) -> None:
        self.flushes = 0
        self.batches: dict[str, list[int]] = {}
        self.kinds: Counter[str] = Counter()
        self.alone: Counter[tuple[str, str]] = Counter()
        self.reads: Counter[tuple[str, int]] = Counter()

    def add(self, name: str, size: int) -> None:
        self.batches.setdefault(name, []).append(size)

    def __iadd__(self, later: Report) -> Report:
        """What both computed, one after the other."""
        self.flushes += later.flushes
        for name, sizes in later.batches.items():
            self.batches.setdefault(name, []).extend(sizes)
        self.kinds |= later.kinds
        self.alone.update(later.alone)
        self.reads.update(later.reads)
        return self

    @property
    def calls(self) -> int:
        """How many calls were computed."""
        return sum(map(sum, self.batches.values()))

    def __repr__(self) -> str:
        batches = _plural(sum(map(len, self.batches.values())), "batch", "batches")
        lines = [f"{self.calls} calls in {batches}; values were asked for {_times(self.flushes)}"]
        width = max(map(len, self.batches), default=0)
        for name, sizes in sorted(self.batches.items(), key=lambda item: -sum(item[1])):
            total = sum(sizes)
            kinds = _plural(self.kinds[name], "kind", "kinds")
            lines.append(
                f"  {name:<{width}}  {total:>7} calls of {kinds:<8} in {_plural(len(sizes), 'batch', 'batches'):>13}, "
                f"{total / len(sizes):>8.1f} on average, {max(sizes):>6} at most"
            )
        for (name, why), times in self.alone.most_common():
            lines.append(f"  {name} ran one by one {_times(times)}: {why}")
        for (file, line), times in self.reads.most_common(SHOWN):
            lines.append(f"  {file}:{line} read a value {_times(times)}")
        if len(self.reads) > SHOWN:
            lines.append(f"  and {_plural(len(self.reads) - SHOWN, 'more line', 'more lines')} read values")
        return "\n".join(lines)


def _plural(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
