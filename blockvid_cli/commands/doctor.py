"""``blockvid doctor``: checks this machine, and names the command that adds what is missing."""

from __future__ import annotations

from dataclasses import asdict

import typer

from blockvid_cli.commands import options, terminal


def doctor(as_json: options.AsJson = False) -> None:
    """Check this machine: device, memory, attention, ffmpeg, sentence model, disk and hub.

    The exit code is 1 if something that blockvid needs is missing.

    Example: blockvid doctor
    """
    from blockvid_cli.runtime.doctor import run_checks
    from blockvid_cli.video.ffmpeg import binary

    checks = run_checks(binary)
    if as_json:
        terminal.write_json([asdict(check) for check in checks])
    else:
        for check in checks:
            mark = "ok  " if check.ok else "MISS" if check.required else "-   "
            terminal.write(f"{mark} {check.name:18} {check.message}")
            if not check.ok and check.fix:
                terminal.write(f"     {'':18} fix: {check.fix}")
    if any(check.required and not check.ok for check in checks):
        raise typer.Exit(1)
