"""Runs ``blockvid``; an error becomes one sentence and an exit code, never a traceback."""

from __future__ import annotations

import os
import sys

from blockvid_cli.errors import BlockvidError, Interrupted, from_os_error


def main() -> None:
    """The console script."""
    try:
        from blockvid_cli.commands.app import app

        app()
    except BlockvidError as error:
        _exit(str(error), error.exit_code)
    except KeyboardInterrupt:
        _exit("interrupted.", Interrupted.exit_code)
    except OSError as error:
        failure = from_os_error(error)
        _exit(str(failure), failure.exit_code)


def _exit(sentence: str, code: int) -> None:
    """Prints the sentence on stderr and exits; with BLOCKVID_DEBUG set, raises the error instead."""
    if os.environ.get("BLOCKVID_DEBUG"):
        raise
    print(f"blockvid: {sentence}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
