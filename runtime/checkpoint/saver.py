"""`Saver`: checkpoints in the background. The step copies the state in memory and goes on; a thread writes.

Several workers that all hold the same state share the work: the worker of rank r of N copies and writes the r-th N-th
of the bytes (`layout`), and says so in a small file beside its part. The worker of rank 0 looks for these, in its
thread, and writes the manifest when all parts are there. If one does not come, the checkpoint is given up (`give_up`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.checkpoint import layout, writer
from runtime.checkpoint.layout import Manifest, Part, PartFile, Tensor
from runtime.checkpoint.reader import Place, store_of
from runtime.checkpoint.writer import CheckpointNotSaved
from runtime.digest import digest
from runtime.store import Store
from runtime.timeline import span

# How long the parts of the other workers may take, once ours is written.
_SECONDS_FOR_PARTS = 60.0


@dataclass(frozen=True)
class Outcome:
    """How a save ended.

    Attributes:
        step: of the checkpoint.
        error: why it was not saved; None if it was.
        digest: of the arrays that were to be digested; None elsewhere than at rank 0.
        seconds: from the copy to the end.
        bytes: of all arrays, those in the parts of others included.
    """

    step: int
    error: Exception | None
    digest: str | None
    seconds: float
    bytes: int


class Saver:
    """Saves checkpoints, one at a time, in a thread of its own.

    >>> import tempfile
    >>> from runtime import checkpoint
    >>> with tempfile.TemporaryDirectory() as root:
    ...     saver, weights = Saver(), np.zeros(3)
    ...     saver.save(root, 10, {"w": weights}, None)
    ...     weights += 1  # the step goes on
    ...     saver.drain(), [outcome.step for outcome in saver.finished()]
    ...     checkpoint.load(checkpoint.available(root)[0]).arrays["w"].tolist()
    (True, [10])
    [0.0, 0.0, 0.0]
    """

    def __init__(self) -> None:
        self._memory: NDArray[np.uint8] = np.empty(0, np.uint8)  # the copy; the same from save to save
        self._idle, self._given_up = threading.Event(), threading.Event()
        self._idle.set()
        self._why = ""  # it was given up
        self._ended: list[Outcome] = []

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is still being written."""
        return not self._idle.is_set()

    def save(
        self,
        root: Place,
        step: int,
        arrays: Mapping[str, NDArray[Any]],
        meta: Any,
        *,
        part: Part | None = None,
        digested: str | None = None,
        keep_last: int = 3,
        keep_every: int | None = None,
        first: Callable[[], None] | None = None,
        then: Callable[[str], None] | None = None,
    ) -> None:
        """Copy what is to be written and return; it is written meanwhile. `finished` tells how it ended.

        Args:
            root, step, arrays, meta, keep_last, keep_every: as of `checkpoint.save`.
            part: which part this worker writes, the same `attempt` on all; None: the whole checkpoint, alone.
            digested: the digest of the arrays whose names begin so, under the rest of their names, is kept with the
                checkpoint.
            first: called in the thread of rank 0 before there is the checkpoint: keeps what must be there if that is;
                an OSError means that it is not saved.
            then: called with that digest, in the thread of rank 0, when there is the checkpoint.

        Raises:
            RuntimeError: one is still being written.
            TypeError, ValueError: an argument is not as described; nothing has been written.
        """
        if self.busy:
            raise RuntimeError("a checkpoint is still being written; look at `busy` first")
        writer.check(step, meta, keep_last, keep_every)
        tensors = writer.tensors_of(arrays)
        rank, size, _ = part or Part()
        held = layout.pieces(tensors, rank, size)
        prefix = digested if rank == 0 else None
        names = [name for name in tensors if prefix is not None and name.startswith(prefix)]
        with span("checkpoint, copy"):
            copies = self._copied(arrays, tensors, held, names)
        work = _Work(store_of(root), step, meta, tensors, part, keep_last, keep_every, self)
        contents = [copies[key].view(np.uint8).data for key, *_ in held]
        to_digest = {name: copies[name].reshape(tensors[name].shape) for name in names}
        started = time.perf_counter()

        def run() -> None:
            error, found = None, None
            try:
                with span("checkpoint, write"):
                    if prefix is not None:
                        found = digest(
                            {name.removeprefix(prefix): array for name, array in to_digest.items()}
                        )
                    work.write(contents, found, first)
                    if then is not None and found is not None:
                        then(found)
            except Exception as failed:
                error = failed
            total = sum(tensor.count * tensor.itemsize for tensor in tensors.values())
            self._ended.append(Outcome(step, error, found, time.perf_counter() - started, total))
            self._idle.set()

        self._given_up.clear()
        self._why = ""
        self._idle.clear()
        try:
            threading.Thread(target=run, name=f"checkpoint of step {step}", daemon=True).start()
        except RuntimeError:  # there can be no more threads
            self._idle.set()
            raise

    def _copied(
        self,
        arrays: Mapping[str, NDArray[Any]],
        tensors: Mapping[str, Tensor],
        held: Sequence[layout.Piece],
        whole: Sequence[str],
    ) -> dict[str, NDArray[Any]]:
        """Flat copies, in our own memory, of the pieces by their keys, and of whole arrays by their names."""
        ranges = dict.fromkeys(tensors, (0, 0))
        ranges.update({name: (lo, hi) for _, name, lo, hi in held})
        ranges.update({name: (0, tensors[name].count) for name in whole})
        nbytes = sum((hi - lo) * tensors[name].itemsize for name, (lo, hi) in ranges.items())
        if self._memory.size != nbytes:
            self._memory = np.empty(nbytes, np.uint8)
        copies, start = {}, 0
        for name, (lo, hi) in ranges.items():  # wide elements first, so all are aligned
            end = start + (hi - lo) * tensors[name].itemsize
            copies[name] = self._memory[start:end].view(layout.DTYPES[tensors[name].dtype])
            np.copyto(copies[name], arrays[name].reshape(-1)[lo:hi])
            start = end
        pieces = {
            key: copies[name][lo - ranges[name][0] : hi - ranges[name][0]] for key, name, lo, hi in held
        }
        return {name: copies[name] for name in whole} | pieces

    def give_up(self, why: str = "") -> None:
        """Wait no longer for the parts of others: one will not come. If all are there, it is saved all the same."""
        self._why = self._why or why
        self._given_up.set()

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until nothing is being written, so many seconds at most; returns whether it is so."""
        return self._idle.wait(timeout)

    def finished(self) -> list[Outcome]:
        """What has ended since this was asked last."""
        found = self._ended[:]
        del self._ended[: len(found)]
        return found


@dataclass(frozen=True)
class _Work:
    """What is written of one checkpoint, beside the bytes."""

    root: Store
    step: int
    meta: Any
    tensors: Mapping[str, Tensor]
    part: Part | None
    keep_last: int
    keep_every: int | None
    saver: Saver

    def write(
        self, contents: Sequence[memoryview], digest: str | None, first: Callable[[], None] | None
    ) -> None:
        """Write the part; as rank 0, make the checkpoint of all parts."""
        directory = self.root.below(layout.directory_name(self.step))
        try:
            part = self.part or writer.alone(directory)
            if part.rank:
                written = writer.write_part(directory, part, self.tensors, contents)
                directory.write(part.said, [layout.sealed({"pieces": dict(written.sha256)})])
                return
            parts = [writer.write_part(directory, part, self.tensors, contents)]
            parts += self._others(directory, part)
            if first is not None:
                first()
            writer.write_manifest(directory, Manifest(self.step, digest, self.meta, self.tensors, parts))
        except (OSError, CheckpointNotSaved) as error:
            if self.part is None or self.part.rank == 0:
                writer.clear(self.root, directory)
            if isinstance(error, CheckpointNotSaved):
                raise
            raise CheckpointNotSaved(f"the checkpoint of step {self.step} was not saved: {error}") from error
        writer.retire(self.root, self.step, self.keep_last, self.keep_every)

    def _others(self, directory: Store, part: Part) -> list[PartFile]:
        """What the other workers say of their parts, by rank; waits for them."""
        given_up, until, pause = self.saver._given_up, time.monotonic() + _SECONDS_FOR_PARTS, 0.005
        missing = [part._replace(rank=rank) for rank in range(1, part.size)]
        found: dict[str, PartFile] = {}
        while True:
            last = given_up.is_set() or time.monotonic() > until
            there = set(directory.names()) if missing else set()
            for other in [other for other in missing if other.said in there]:
                if (fields := layout.unsealed(directory.read(other.said))) is not None:
                    found[other.file] = PartFile(other.file, fields["pieces"])
                    missing.remove(other)
            if not missing:
                return [found[part._replace(rank=rank).file] for rank in range(1, part.size)]
            if last:
                which = ", ".join(str(other.rank + 1) for other in missing)
                raise CheckpointNotSaved(
                    f"the checkpoint of step {self.step} was not saved: of {part.size} parts, which the workers write "
                    f"together, {which} did not come{self.saver._why and ': '}{self.saver._why}"
                )
            given_up.wait(pause)
            pause = min(2 * pause, 0.5)
