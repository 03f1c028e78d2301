"""Runs ``blockvid``; an error or a signal becomes one sentence and an exit code, never a traceback."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import FrameType, ModuleType

from blockvid_cli.commands import terminal
from blockvid_cli.errors import BlockvidError, Interrupted, OutOfMemoryError, Stopped, to_blockvid_error

SIGNALS = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]

# What the shortest film of the bundled model took on two cores, in bytes: less ends in the loader or in a segfault
NEEDED_ADDRESS_SPACE, NEEDED_MEMORY = 1500 * 2**20, 512 * 2**20
CGROUPS = Path("/sys/fs/cgroup")


def main() -> None:
    """The console script."""
    os.environ["PYTHONSAFEPATH"] = "1"  # worker processes import nothing from the working folder either
    # Threads that wait for one another must sleep: where another program has a core, spinning takes many times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    terminal.prepare_streams()
    with _signals_stop() as stops, _limits_checked():
        try:
            from blockvid_cli.commands.app import run

            code = run()
            if stops and code == Interrupted.exit_code:  # the parser of options makes an exit code of a Ctrl-C
                code = _report(stops[0])
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  (raised again unless it has a sentence)
            code = _report(stops[0] if stops and not isinstance(error, BlockvidError) else error)
    sys.exit(code)


def _report(error: BaseException) -> int:
    """Prints the sentence on stderr and returns the exit code; an error that has none is raised.

    With BLOCKVID_DEBUG set, every error is raised.
    """
    if isinstance(error, KeyboardInterrupt):
        command = shlex.join(["blockvid", *sys.argv[1:]])
        failure: BlockvidError | None = Interrupted(f"nothing is lost; run it again: {command}", error)
    else:
        failure = to_blockvid_error(error)
    if failure is None or os.environ.get("BLOCKVID_DEBUG"):
        raise error
    terminal.error(str(failure))
    return failure.exit_code


@contextmanager
def _signals_stop() -> Iterator[list[Stopped]]:
    """Raises ``Stopped`` in the main thread at the first signal that asks the process to end; yields what was raised.

    A second Ctrl-C ends the process at once. Signals that the caller ignores (``nohup``) stay ignored.
    """
    stops: list[Stopped] = []
    if threading.current_thread() is not threading.main_thread():
        yield stops
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for each in handlers:
            signal.signal(each, signal.SIG_DFL if each == signal.SIGINT else signal.SIG_IGN)
        stops.append(Stopped(number))
        raise stops[0]

    def raise_again(lost: sys.UnraisableHookArgs) -> None:
        """Python drops what is raised in a finalizer or a callback: the signal is sent again a moment later."""
        if not isinstance(lost.exc_value, Stopped):
            return hook(lost)
        number = lost.exc_value.number
        signal.signal(number, stop)
        threading.Timer(0.05, os.kill, (os.getpid(), number)).start()
        return None

    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    handlers = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
    hook, sys.unraisablehook = sys.unraisablehook, raise_again
    try:
        for number in handlers:
            signal.signal(number, stop)
        yield stops
    finally:
        sys.unraisablehook = hook
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _MemoryLimits(MetaPathFinder):
    """Looks at the limits of the process when torch is about to be imported; finds no modules itself."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Raises OutOfMemoryError where there is too little for torch, which would not say so."""
        if name == "torch":
            _check_limit("this process may use (ulimit -v)", _address_space(), NEEDED_ADDRESS_SPACE)
            _check_limit("this container may use", _container_memory(), NEEDED_MEMORY)


@contextmanager
def _limits_checked() -> Iterator[None]:
    limits = _MemoryLimits()
    sys.meta_path.insert(0, limits)
    try:
        yield
    finally:
        sys.meta_path.remove(limits)


def _check_limit(what: str, limit: int, needed: int) -> None:
    if limit < needed:
        mebibytes = f"{limit / 2**20:.0f} MiB are all the memory that {what}, and {needed / 2**20:.0f} MiB are needed"
        raise OutOfMemoryError(f"{mebibytes} at least; raise the limit.")


def _address_space() -> int:
    """Bytes that this process may map."""
    with suppress(ImportError):  # Windows has no such limit
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        return sys.maxsize if limit == resource.RLIM_INFINITY else limit
    return sys.maxsize


def _container_memory() -> int:
    """Bytes that the Linux control groups of this process allow, the smallest of all that it is in."""
    limits = [sys.maxsize]
    with suppress(OSError, ValueError):
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()[-1].rpartition(":")[2].strip("/")
        groups = [CGROUPS / own, *(CGROUPS / own).parents]
        files = [*(group / "memory.max" for group in groups), CGROUPS / "memory" / "memory.limit_in_bytes"]
        limits += [int(text) for file in files if file.is_file() and (text := file.read_text().strip()).isdecimal()]
    return min(limits)


if __name__ == "__main__":
    main()
