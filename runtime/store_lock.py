"""The lock of a run on a store that has no locks of its own: an object that its holder renews.

Below `lock/` lie objects with the numbers 1, 2, ...; the one with the highest number is the lock, and says who holds
it. Whoever may take it creates the next number, which a store grants to one only. The numbers only grow: a lock that is
given back stays there and says so. So of any who want it at once one gets it, and a holder that was cut off sees a
higher number and knows. Whoever takes it from somebody makes sure after that that it was not renewed meanwhile, and who
renews it looks after that whether it was taken meanwhile: one of the two notices.

A holder renews its object every 15 s. It may be taken from one that is silent for 60 s by the store's clock, and from
another worker of the same launch, whose end the launch knows of. A holder that cannot be sure any more (it could not
renew for 45 s) writes nothing until it has renewed.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import BinaryIO

from .run_lock import RunInUse
from .store import Store

_log = logging.getLogger(__name__)

FOLDER = "lock"
_CLOCK = f"{FOLDER}/clock"  # written to be told the time of the store

EVERY, PATIENCE = 15.0, 60.0
_LOOKING = 1.0  # seconds between looks at a lock of which it is not known whether its holder lives


@dataclass(frozen=True)
class Claim:
    """What the object of a lock says: its number, whose it is, how often it was renewed, whether it was given back."""

    number: int
    id: str
    launch: str
    host: str
    pid: int
    renewals: int = 0
    released: bool = False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass(frozen=True)
class Take:
    """Create this number; if it is the highest then, the lock is held."""

    number: int


@dataclass(frozen=True)
class Wait:
    """Look again in a while: it is not known yet whether the holder lives."""


class Contender:
    """Somebody who wants the lock. It decides from what it is shown, without a clock and without I/O.

    Args:
        launch: of which launch it is.
        takeover: the writer before, of the same launch, is known to be lost.
        patience: seconds of silence after which a lock is free.

    >>> contender = Contender("a")
    >>> contender.seen(None, 0.0)
    Take(number=1)
    >>> other = Claim(1, "id", "b", "host", 7)
    >>> contender.seen(other, 3.0), contender.seen(other, 60.0)
    (Wait(), Take(number=2))
    """

    def __init__(self, launch: str, takeover: bool = False, patience: float = PATIENCE) -> None:
        self._launch, self._takeover, self._patience = launch, takeover, patience
        self._first: Claim | None = None

    def seen(self, newest: Claim | None, age: float) -> Take | Wait | Claim:
        """What to do about the present lock, which was renewed `age` seconds ago.

        It is the claim itself if its holder lives: the lock was renewed, or taken, between two looks.
        """
        if newest is None:
            return Take(1)
        ours = self._takeover and newest.launch == self._launch
        if newest.released or ours or age >= self._patience:
            return Take(newest.number + 1)
        if self._first is not None and self._first != newest:
            return newest
        self._first = newest
        return Wait()


class StoreLock:
    """Hold the lock of the run in a store for the length of a `with` block.

    Args:
        store: of the run.
        launch: an id that all workers of one launch have, and no other launch.
        takeover: the writer before, of the same launch, is known to be lost.

    Raises:
        RunInUse: on entering: another process has it; the message names its process and host.
        OSError: on entering: the store cannot be reached, or refuses.
    """

    def __init__(
        self,
        store: Store,
        launch: str,
        takeover: bool = False,
        *,
        every: float | None = None,
        patience: float | None = None,
    ) -> None:
        self._store = store
        self._every, self._patience = every or EVERY, patience or PATIENCE
        self._contender = Contender(launch, takeover, self._patience)
        self._mine = Claim(0, os.urandom(8).hex(), launch, socket.gethostname(), os.getpid())
        self._renewed = 0.0  # by this process's clock
        self._renewing = threading.Lock()
        self._other: Claim | None = None  # who has taken it
        self._refusal: str | None = None  # why nothing may be written any more
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="run-lock", daemon=True)

    def __enter__(self) -> StoreLock:
        waiting = False
        while True:
            newest, age = self._look()
            match self._contender.seen(newest, age):
                case Take(number):
                    if self._take(number, newest):
                        break
                case Wait():
                    if not waiting:
                        _log.warning(
                            f"{self._store.url} was in use by {newest} {age:.0f} s ago; waiting for a sign of life "
                            f"from it, or {self._patience:.0f} s of silence"
                        )
                    waiting = True
                    time.sleep(min(_LOOKING, self._every / 3))
                case other:
                    raise RunInUse(self._store.url, str(other))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        with self._renewing:
            if self._refusal is None:
                self._refusal = f"the lock of {self._store.url} was given back"
                with suppress(OSError):  # then it is free after the time of silence
                    self._write(replace(self._mine, released=True))

    def check(self) -> None:
        """Raise RunInUse if another process has taken the lock. Does not wait for the store."""
        if self._other is not None:
            raise RunInUse(
                self._store.url, f"{self._other}, which found this process silent for {self._patience:.0f} s"
            )

    def confirm(self, within: float | None = None) -> None:
        """Return only if nobody else can have the lock now: called before each write to the run.

        Args:
            within: ask the store if it was not asked for so many seconds; None: if another launch may have taken it.

        Raises:
            OSError: another process has it, or that cannot be found out at present.
        """
        if time.monotonic() - self._renewed > (0.75 * self._patience if within is None else within):
            self._renew()
        if self._refusal is not None:
            raise PermissionError(self._refusal)

    # --- what lies in the store -------------------------------------------------------------------------------------

    def _look(self) -> tuple[Claim | None, float]:
        """The present lock, and how long ago it was renewed."""
        if (newest := _newest(self._store)) is None:
            return None, 0.0
        self._store.write(_CLOCK, [b""])
        claim, renewed = newest
        return claim, self._store.modified(_CLOCK) - renewed

    def _take(self, number: int, former: Claim | None) -> bool:
        began = time.monotonic()
        self._mine = replace(self._mine, number=number)
        try:
            self._store.create(_name(number), _text(self._mine))
        except FileExistsError:
            # It may be our own: a client asks again where it was not answered.
            newest = _newest(self._store)
            if newest is None or newest[0] != self._mine:
                return False
        numbers = _numbers(self._store)
        # Else this number had been there, and was removed by a later holder; or the former one has renewed it.
        if numbers[-1] != number or (former is not None and _claim(self._store, former.number) != former):
            self._store.remove(_name(number))
            return False
        self._renewed = began
        for past in numbers[:-1]:
            with suppress(OSError):
                self._store.remove(_name(past))
        return True

    def _write(self, claim: Claim) -> None:
        self._store.write(_name(claim.number), [_text(claim)])

    def _keep(self) -> None:
        refused = False
        while not self._ended.wait(self._every) and self._refusal is None:
            try:
                self._renew()
            except OSError as error:
                if not refused:
                    _log.warning(f"the lock of {self._store.url} cannot be renewed ({error}); trying again")
                refused = True
            else:
                refused = False

    def _renew(self) -> None:
        with self._renewing:
            if self._refusal is not None:
                return
            began = time.monotonic()
            self._mine = replace(self._mine, renewals=self._mine.renewals + 1)
            self._write(self._mine)
            newest = _newest(self._store)
            if newest is not None and newest[0].number > self._mine.number:
                self._other = newest[0]
                self._refusal = f"{self._store.url} was taken over by {self._other}"
                return
            self._renewed = began


class GuardedStore(Store):
    """A store that is written only while a lock is held."""

    def __init__(self, store: Store, lock: StoreLock) -> None:
        self._store, self._lock = store, lock
        self.url, self.local = store.url, store.local

    def below(self, name: str) -> Store:
        return GuardedStore(self._store.below(name), self._lock)

    def read(self, name: str) -> bytes:
        return self._store.read(name)

    def open(self, name: str) -> BinaryIO:
        return self._store.open(name)

    def write(self, name: str, chunks: Iterable[bytes | memoryview]) -> None:
        self._lock.confirm()
        self._store.write(name, chunks)

    def create(self, name: str, data: bytes) -> None:
        self._lock.confirm()
        self._store.create(name, data)

    def names(self, directory: str = "") -> list[str]:
        return self._store.names(directory)

    def modified(self, name: str) -> float:
        return self._store.modified(name)

    def remove(self, name: str) -> None:
        # A write that comes too late changes nothing, because the bits are those of this run; a removal may hit what
        # the next holder has just written. One of the same launch takes the lock at once.
        self._lock.confirm(within=1.0)
        self._store.remove(name)


def holder(store: Store) -> str | None:
    """Who holds the lock of a run in a store now, as far as can be told without waiting and by the clock here."""
    newest = _newest(store)
    if newest is None:
        return None
    claim, renewed = newest
    return None if claim.released or time.time() - renewed >= PATIENCE else str(claim)


def _numbers(store: Store) -> list[int]:
    return sorted(int(name) for name in store.names(FOLDER) if name.isdecimal())


def _claim(store: Store, number: int) -> Claim | None:
    try:
        return Claim(number, **json.loads(store.read(_name(number))))
    except FileNotFoundError:
        return None


def _newest(store: Store) -> tuple[Claim, float] | None:
    """The present lock, and when it was renewed."""
    while numbers := _numbers(store):
        with suppress(FileNotFoundError):  # there is a higher one by now
            renewed = store.modified(_name(numbers[-1]))
            if (claim := _claim(store, numbers[-1])) is not None:
                return claim, renewed
    return None


def _name(number: int) -> str:
    return f"{FOLDER}/{number:010d}"


def _text(claim: Claim) -> bytes:
    fields = asdict(claim)
    del fields["number"]
    return json.dumps(fields).encode()
