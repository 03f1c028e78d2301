"""``blockvid``: runs a command; a mistake becomes one sentence and an exit code, never a traceback."""

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
        _end(str(error), error.exit_code)
    except KeyboardInterrupt:
        _end("interrupted.", Interrupted.exit_code)
    except OSError as error:
        told = from_os_error(error)
        _end(str(told), told.exit_code)


def _end(sentence: str, code: int) -> None:
    """Says why on stderr and exits; with BLOCKVID_DEBUG set, the traceback comes instead."""
    if os.environ.get("BLOCKVID_DEBUG"):
        raise
    print(f"blockvid: {sentence}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
