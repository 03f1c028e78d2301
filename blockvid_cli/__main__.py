"""``blockvid``: runs a command; a mistake becomes one sentence and an exit code, never a traceback."""

from __future__ import annotations

import os
import sys

from blockvid_cli.errors import BlockvidError


def main() -> None:
    """The console script."""
    from blockvid_cli.commands.app import app

    try:
        app()
    except BlockvidError as error:
        if os.environ.get("BLOCKVID_DEBUG"):
            raise
        print(f"blockvid: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
