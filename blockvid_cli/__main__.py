"""Runs ``blockvid``; an error or a signal becomes one sentence and an exit code, never a traceback."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from blockvid_cli.commands import terminal
from blockvid_cli.errors import BlockvidError, Interrupted, Stopped, to_blockvid_error

SIGNALS = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]


def main() -> None:
    """The console script."""
    terminal.prepare_streams()
    with _signals_stop() as stops:
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


if __name__ == "__main__":
    main()
