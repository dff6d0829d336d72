"""`launch`: a function sent to workers on this machine, and its results back.

cloudpickle carries the function from the caller to its own workers, and their results and errors back, through files in
a folder that only this user can read. What is defined in a script, a notebook or at a prompt travels by value: the
script is not run again, and needs no guard.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import importlib.machinery
import linecache
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import Any, TypeVar

import cloudpickle  # type: ignore[import-untyped]

from .. import launch as starting
from ..coordinator import Over
from ..member import Lost, current
from . import mpi_environment
from .cores import MOST_WORKERS

R = TypeVar("R")

_HERE = f"{Path(__file__).parent}{os.sep}"
_CALL = "call"
_DEPTH = 20  # of what is looked into for something that cannot be sent
_INTERRUPTED = 130


def launch(
    fn: Callable[..., R],
    /,
    *args: Any,
    workers: int = 2,
    backend: str = "shm",
    threads: int = 1,
    **kwargs: Any,
) -> list[R]:
    """Call `fn(*args, **kwargs)` in `workers` processes, and return what each returned.

    In the function, `fit`, `steps` and `evaluate` share their work among the workers; everything else each does for
    itself. It may be a closure, and defined anywhere: in a notebook, a test, a script without a guard. What it uses is
    sent to the workers as it is now, copied; what they change comes back only as their result:

        def train(rate):
            model = ...
            return dp.fit(model, loss, optim.SGD(model.parameters(), lr=rate), data, batch_size=32).digest

        digests = dp.launch(train, 0.1, workers=4)

    What worker 0 prints is shown here, as are the lines that others write to stderr, with prefixes. Ctrl-C ends all.

    Args:
        fn: the function. Give it arguments named like those below by `functools.partial`.
        workers: how many processes.
        backend: for processes of this machine, what they exchange over: "shm" (shared memory), "tcp" (loopback) or
            "shm+tcp". "ray": actors on the Ray cluster that this process is connected with, or else on that of
            RAY_ADDRESS, or else on one started for this call; the call waits until it has room for all.
        threads: BLAS threads of each.

    Returns:
        the results, in the order of workers.

    Raises:
        TypeError: something cannot be sent: the function, an argument, a result; what it is in is named.
        ValueError: a wrong number of workers or threads, an unknown backend.
        RuntimeError: this process is itself one of several workers.
        Lost: too many workers were lost one after another.
        Exception: what `fn` raised in a worker, of its own type where that can be sent, else a RuntimeError; the
            traceback there is added to it as a note.
    """
    if not callable(fn):
        raise TypeError(f"fn must be a function, got {fn!r:.80} ({type(fn).__name__})")
    for name, value, most in (("workers", workers, MOST_WORKERS), ("threads", threads, MOST_WORKERS)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {value!r:.80} ({type(value).__name__})")
        if not 1 <= value <= most:
            raise ValueError(f"{name} must be from 1 to {most}, got {value}")
    if mpi_environment.launched() or current().workers > 1:
        raise RuntimeError(
            "launch: this process is itself one of several workers; call the function here instead"
        )
    # Loaded here: `import dist_dp` is quick, and a worker needs none of it.
    if backend == "ray":
        from .ray.shipped import call_on_ray

        return call_on_ray(_call(fn, args, kwargs), workers, threads)
    from .local import LocalHost
    from .logs import WorkerLogs

    with tempfile.TemporaryDirectory(prefix="dist_dp-") as name:
        folder = Path(name)
        (folder / _CALL).write_bytes(_call(fn, args, kwargs))
        logs = WorkerLogs(workers, sys.stdout, sys.stderr)
        host = LocalHost(
            # The path of imports is this process's; its main program is not run again.
            [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{_WORK}", name],
            workers,
            backend=backend,
            environment={starting.THREADS: str(threads)},
            logs=logs,
        )
        try:
            over = host.run()
        finally:
            logs.close()
        raise_unless_well(over, lambda report: _error(folder, report["worker"]).read_bytes())
        found = {w: _result(folder, w).read_bytes() for w in range(workers) if _result(folder, w).exists()}
        return results_of(found, workers)


def raise_unless_well(over: Over, error: Callable[[Mapping[str, Any]], bytes]) -> None:
    """Raise what a launch came to, if it did not end well; `error` finds the bytes of a worker's exception."""
    if over.code == _INTERRUPTED:
        raise KeyboardInterrupt(over.reason)
    if over.report:
        raise _rebuilt(over.report, error)
    if over.code:
        raise Lost(over.reason)


def results_of(found: Mapping[int, bytes], workers: int) -> list[Any]:
    """The results, in the order of workers.

    Raises:
        Lost: one is not there: nobody was left who could bring another worker to where it was.
    """
    for worker in range(workers):
        if worker not in found:
            raise Lost(f"worker {worker} was lost, and its result, after others had come to their end")
    return [cloudpickle.loads(found[worker]) for worker in range(workers)]


_WORK = "from runtime.hosts.shipped import work; sys.exit(work(sys.argv[1]))"


def work(name: str) -> int:
    """Do the call that lies in a folder, as a worker; the result, or the error, comes to lie beside it."""
    from .program import run_program

    folder = Path(name)

    def program() -> None:
        result = called((folder / _CALL).read_bytes())
        _write(_result(folder, current().worker), result)

    def reported(error: BaseException) -> Mapping[str, Any]:
        report, data = report_of(error)
        with contextlib.suppress(OSError):
            _write(_error(folder, report["worker"]), data)
        return report

    return run_program(program, reported)


def called(data: bytes) -> bytes:
    """Do a call that came as bytes; its result as bytes."""
    call = cloudpickle.loads(data)
    linecache.cache.update(call["sources"])
    fn, args, kwargs = call["call"]
    result = fn(*args, **kwargs)
    return _dump(result, {"result": result}, "the caller")


def _result(folder: Path, worker: int) -> Path:
    return folder / f"result-{worker}"


def _error(folder: Path, worker: int) -> Path:
    return folder / f"error-{worker}"


def _write(path: Path, data: bytes) -> None:
    beside = path.with_suffix(".partial")  # a worker may be killed while it writes
    beside.write_bytes(data)
    beside.rename(path)


# --- what is sent -------------------------------------------------------------------------------------------------


def _call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    # Cells of a notebook are no files: tracebacks find their lines here.
    sources = {file: entry for file, entry in linecache.cache.items() if len(entry) == 4 and entry[1] is None}
    named = {"fn": fn, **{f"args[{i}]": value for i, value in enumerate(args)}, **kwargs}
    with _by_value(fn):
        return _dump({"call": (fn, args, kwargs), "sources": sources}, named, "the workers")


@contextlib.contextmanager
def _by_value(fn: Callable[..., Any]) -> Iterator[None]:
    """Let the module of a function travel with it, if a worker could not import it (a test's, say)."""
    module = sys.modules.get(getattr(fn, "__module__", None) or "__main__")
    top = module.__name__.partition(".")[0] if module else "__main__"
    finders = (importlib.machinery.BuiltinImporter, importlib.machinery.PathFinder)
    if module is None or top == "__main__" or any(finder.find_spec(top) for finder in finders):
        yield
        return
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _dump(value: Any, named: Mapping[str, Any], to: str) -> bytes:
    """`value` as bytes; `named` is what the message for one that cannot be sent looks into."""
    try:
        return bytes(cloudpickle.dumps(value))
    except Exception as error:
        found = (_culprit(name, part, 0) for name, part in named.items())
        path, kind = next(
            (f for f in found if f is not None), (next(iter(named)), "together with the others")
        )
        raise TypeError(
            f"{path} ({kind}) cannot be sent to {to}: {error}; make it inside the function, or leave it out"
        ) from None


def _culprit(path: str, value: Any, depth: int) -> tuple[str, str] | None:
    """The innermost part of `value` that cannot be pickled, as the way that leads to it and its type."""
    try:
        cloudpickle.dumps(value)
        return None
    except Exception:
        inner = (_culprit(path + name, part, depth + 1) for name, part in _parts(value) if depth < _DEPTH)
        return next(
            (f for f in inner if f is not None), (path, f"{type(value).__module__}.{type(value).__name__}")
        )


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What a value is made of, each with what to add to its name."""
    if isinstance(value, FunctionType):
        name = f" -> {{}} (used by {value.__name__})"
        for variable, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # it has no value yet
                yield name.format(variable), cell.cell_contents
        for variable in sorted(_global_names(value.__code__) & value.__globals__.keys()):
            yield name.format(variable), value.__globals__[variable]
        for i, default in enumerate(value.__defaults__ or ()):
            yield f".__defaults__[{i}]", default
    elif isinstance(value, MethodType):
        yield ".__self__", value.__self__
    elif isinstance(value, functools.partial):
        yield ".func", value.func
        yield from ((f".args[{i}]", part) for i, part in enumerate(value.args))
        yield from ((f".keywords[{name!r}]", part) for name, part in value.keywords.items())
    elif isinstance(value, dict):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple):
        yield from ((f"[{i}]", part) for i, part in enumerate(value))
    else:
        yield from ((f".{name}", part) for name, part in getattr(value, "__dict__", {}).items())


def _global_names(code: CodeType) -> set[str]:
    names = {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
    return names.union(*(_global_names(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


# --- how it failed ------------------------------------------------------------------------------------------------


def report_of(error: BaseException) -> tuple[dict[str, Any], bytes]:
    """How the function failed in this worker, and the exception as bytes; none if it cannot be sent."""
    data = b""
    with contextlib.suppress(Exception):
        data = _error_as_bytes(error)
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_HERE):
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames)).rstrip()
    report = {"worker": current().worker, "error": type(error).__name__, "message": str(error)}
    return {**report, "traceback": text}, data


def _error_as_bytes(error: BaseException) -> bytes:
    with contextlib.suppress(Exception):
        data = bytes(cloudpickle.dumps(error))
        if type(cloudpickle.loads(data)) is type(error):
            return data
    # The arguments of its class are others than those that it keeps.
    return bytes(cloudpickle.dumps((type(error), error.args, vars(error))))


def _rebuilt(report: Mapping[str, Any], found: Callable[[Mapping[str, Any]], bytes]) -> BaseException:
    """The error that a worker reported, with the traceback there as a note."""
    try:
        error = cloudpickle.loads(found(report))
        if isinstance(error, tuple):
            kind, args, attributes = error
            error = kind.__new__(kind, *args)
            vars(error).update(attributes)
    except Exception:
        error = RuntimeError(f"{report['error']}: {report['message']}")
    assert isinstance(error, BaseException)
    error.add_note(f"in worker {report['worker']}:\n{report['traceback']}")
    return error
