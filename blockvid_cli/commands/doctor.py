"""``blockvid doctor``: what this machine has, and the command that mends what it lacks."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from blockvid_cli.commands import options


def doctor(as_json: options.AsJson = False) -> None:
    """Look at this machine: device, memory, attention, ffmpeg, sentence model, disk, hub. Exit code 1 if it lacks
    something that is needed.

    Example: blockvid doctor
    """
    from blockvid_cli.runtime.doctor import run_checks

    checks = run_checks()
    if as_json:
        print(json.dumps([asdict(check) for check in checks]))
    else:
        for check in checks:
            mark = "ok  " if check.ok else "LACK" if check.required else "-   "
            print(f"{mark} {check.name:18} {check.message}")
            if not check.ok and check.fix:
                print(f"     {'':18} mend: {check.fix}")
    if any(check.required and not check.ok for check in checks):
        raise typer.Exit(1)
