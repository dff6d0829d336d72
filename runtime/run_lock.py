"""The lock of a run: two processes must not write one run directory.

It is an advisory ``flock``, which the kernel releases when its holder ends in whatever way, so a crash leaves
no stale lock behind. What the file says (process and host) is there for the message only.
"""

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

_log = logging.getLogger(__name__)

_PATIENT = 2.0  # seconds of waiting before that is said

_held: set[int] = set()


class RunInUse(RuntimeError):
    """Another process holds the lock of the run: ``holder``."""

    def __init__(self, run: str, holder: str) -> None:
        super().__init__(f"{run} is held by {holder}: wait until it ends, stop it, or give another run")
        self.holder = holder


def _forget_in_child() -> None:
    # A forked child shares the lock with its parent. A child that outlives a killed parent (a data worker,
    # say) must not keep the run locked.
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)


@contextmanager
def run_lock(path: str | os.PathLike[str], patience: float = 0.0) -> Iterator[None]:
    """Hold the lock file ``path`` (made if absent, left afterwards) for the length of a ``with`` block.

    It is waited for ``patience`` seconds: the kernel may free the lock of a process that was ended in a moment only.

    Raises
        RunInUse: another holder has it; the message names its process and host.
        OSError: the file cannot be opened.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as run, run_lock(f"{run}/lock"):
    ...     pass  # nobody else writes to the run
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    _held.add(descriptor)
    try:
        began, said = time.monotonic(), False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waited = time.monotonic() - began
                if waited >= patience:
                    raise RunInUse(os.fspath(path), _holder(descriptor)) from None
                if waited > _PATIENT and not said:
                    said = True
                    _log.warning(
                        f"{path} is still held by {_holder(descriptor)}, which was lost; waiting for it to be free, "
                        f"{patience:g} s at most"
                    )
                time.sleep(0.01)
        holder = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)
        yield
    finally:
        if descriptor in _held:  # a forked child that comes by has closed its own already
            _held.remove(descriptor)
            os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:  # it has the lock and has not written its name yet
        return "another process"
    return f"process {holder['pid']} on {holder['host']}"
