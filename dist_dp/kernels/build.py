"""Compiles the kernels: when the package is built, or by `python -m dist_dp.kernels.build`.

It needs a C compiler and Python's header files. It imports nothing of dist_dp, whose build runs it before there is one.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
OUTPUT = HERE / "_compiled.abi3.so"
# No contraction: a multiply-add that rounds once has other bits than one that rounds twice.
FLAGS = (
    "-O3",
    "-g0",  # some Pythons would have a megabyte of debug data beside
    "-std=c11",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
)


class NotCompiled(Exception):
    """Why there are no compiled kernels; those in NumPy do the same."""


def build(output: Path = OUTPUT, *flags: str) -> Path:
    """Compile the kernels into `output`, with these flags after the usual ones.

    Raises:
        NotCompiled: there is no compiler, or it fails.
    """
    compiler = shlex.split(os.environ.get("CC") or "cc")
    linker = shlex.split(sysconfig.get_config_var("LDSHARED") or "cc -shared")
    include = f"-I{sysconfig.get_path('include')}"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        raise NotCompiled(f"Python's header files are not in {sysconfig.get_path('include')}")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, output.name)
        sources = [str(path) for path in sorted(HERE.glob("*.c"))]
        command = [
            *compiler,
            *linker[1:],
            *FLAGS,
            *flags,
            include,
            f'-DSOURCE="{digest()}"',
            *sources,
            "-lm",  # fmaf, where the processor has no such instruction
            "-o",
            str(made),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotCompiled(f"there is no C compiler: {error}") from error
        if done.returncode:
            raise NotCompiled(f"{shlex.join(command)} failed:\n{done.stderr}")
        if not made.exists():
            raise NotCompiled(f"{shlex.join(compiler)} is no C compiler: it succeeded and made nothing")
        beside = output.with_suffix(".new")  # a process may have the old one loaded
        beside.write_bytes(made.read_bytes())
        os.replace(beside, output)
    return output


def digest() -> str:
    """What tells kernels of other bits apart: the beginning of SHA-256 over the sources and how they are compiled."""
    text = b"".join(path.read_bytes() for path in sorted(HERE.glob("*.[ch]")))
    return hashlib.sha256(text + " ".join(FLAGS).encode()).hexdigest()[:12]


if __name__ == "__main__":
    try:
        print(build())
    except NotCompiled as reason:
        sys.exit(f"not compiled: {reason}")
