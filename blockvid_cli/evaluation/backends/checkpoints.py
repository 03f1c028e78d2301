"""The checkpoints of the vbench tier: which files they are, where they are on this machine, and how to download them.

    dinov2-base/, clip-vit-base-patch32/, ...   config.json, the weights and, for captions, the tokenizer's files
    raft_large_C_T_V1-22a6c225.pth, ...         files by themselves

They are searched by these names in the folder that ``--weights-dir`` names, then in the caches of their libraries: the
Hugging Face hub's cache (HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT), and torch's folder for files (TORCH_HOME).
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from blockvid_cli.errors import MissingModelError, UsageError
from blockvid_cli.models.hub import PIECE, blob_hash, checked_hub, sha256

SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
TIMEOUT = 60  # seconds without an answer
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class Checkpoint:
    """A published network: what it is for (``use``), and its ``source``: a repository on the hub, or a URL.

    Args:
        licence, bytes, sha256: of its weights; the hash or its beginning, beside which the size may be rounded.
        revision, files: of the repository: its weights first, then its configuration, then what only captions need.
    """

    use: str
    source: str
    licence: str
    bytes: int
    sha256: str | None = None
    revision: str = ""
    files: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of its folder (from the hub) or of its file (from a URL)."""
        return self.source.rsplit("/", 1)[-1]

    @property
    def is_url(self) -> bool:
        """Whether it is a single file."""
        return "://" in self.source

    def required_files(self, path: Path) -> list[Path]:
        """The file of its weights, then the other files it needs; ``path`` is what ``locate`` returned."""
        return [path] if self.is_url else [path / file for file in self.files[:2]]

    def label(self, path: Path) -> str:
        """Its name, and the beginning of its weights' hash."""
        return f"{self.name} {short_hash(self.required_files(path)[0])}"

    def __str__(self) -> str:
        units = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("bytes", 1))
        unit, factor = next(pair for pair in units if self.bytes >= pair[1] or pair[1] == 1)
        return f"'{self.name}' (for {self.use}; {self.bytes / factor:.3g} {unit}, {self.licence})"


DINO = Checkpoint(
    use="subject consistency",
    source="facebook/dino-vitb16",
    revision="f205d5d8e640a89a2b8ef0369670dfc37cc07fc2",
    files=(PICKLED, "config.json"),
    bytes=343_000_000,
    licence="Apache-2.0",
    sha256="a064e36c67289caaa5c949c0b3f7f31a0fcbcba5721f5fa12419933ec1f4fe6e",
)
DINOV2 = Checkpoint(
    use="subject consistency between the clips of a long film",
    source="facebook/dinov2-base",
    revision="f9e44c814b77203eaa57a6bdbbd535f21ede1415",
    files=(SAFETENSORS, "config.json"),
    bytes=346_345_912,
    licence="Apache-2.0",
    sha256="d73036b56966966d07975d696bde331762f37297e2f095de8cea0040c3aa0841",
)
CLIP_BASE = Checkpoint(
    use="background consistency and captions",
    source="openai/clip-vit-base-patch32",
    revision="b33cedfd0df4e43b8238760678fcc89e1a0d38b3",  # the same weights as its main branch's, as safetensors
    files=(SAFETENSORS, "config.json", *TOKENIZER),
    bytes=605_157_884,
    licence="MIT",
    sha256="99d28a652e6ec46629ab7047a0ac82c69b1fe11e0ce672c43af65d3a9a3fc05d",
)
CLIP_LARGE = Checkpoint(
    use="aesthetic quality",
    source="openai/clip-vit-large-patch14",
    revision="32bd64288804d66eefd0ccbe215aa642df71cc41",
    files=(SAFETENSORS, "config.json"),
    bytes=1_710_540_580,
    licence="MIT",
    sha256="a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
)
LAION = Checkpoint(
    use="aesthetic quality",
    source="https://github.com/LAION-AI/aesthetic-predictor/raw/6d122adad522ab246644d9dc1c6d7a3810ee255f/sa_0_4_vit_l_14_linear.pth",
    bytes=4_071,
    licence="MIT",
    sha256="2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba",
)
RAFT = Checkpoint(
    use="dynamic degree",
    source="https://download.pytorch.org/models/raft_large_C_T_V1-22a6c225.pth",
    bytes=21_100_000,
    licence="BSD-3-Clause",
    sha256="22a6c225",  # torchvision gives no more of it
)
CHECKPOINTS = (DINO, CLIP_BASE, CLIP_LARGE, LAION, RAFT, DINOV2)


def locate(checkpoint: Checkpoint, weights_dir: Path | None = None) -> Path:
    """Returns where a checkpoint is: its folder if it is from the hub, else its file. Nothing is downloaded.

    Raises:
        MissingModelError: it is absent, incomplete, or not what was published; the sentence says what downloads it.
        UsageError: there is no folder ``weights_dir``.
    """
    path = _search(checkpoint, weights_dir)
    if path is None:
        needed = "" if checkpoint.is_url else f"/ with {' and '.join(checkpoint.files[:2])}"
        raise MissingModelError(
            f"the checkpoint {checkpoint} is not on this machine: 'blockvid eval --tier vbench --pull ...' downloads it"
            f" from {checkpoint.source}, and '--weights-dir DIR' finds it as DIR/{checkpoint.name}{needed}."
        )
    for file in checkpoint.required_files(path):
        if not file.is_file():
            raise MissingModelError(f"the checkpoint {checkpoint} is not whole: {file} is absent.")
    weights = checkpoint.required_files(path)[0]
    if not _is_published(checkpoint, weights):
        raise MissingModelError(
            f"{weights} is not the checkpoint {checkpoint} as it was published;"
            " remove it, and '--pull' brings it again."
        )
    return path


def pull(checkpoints: Iterable[Checkpoint], notify: Callable[[str], None], weights_dir: Path | None = None) -> None:
    """Downloads the checkpoints that are not on this machine, each file whole or not at all; ``notify`` gets a line
    before each.

    Raises:
        MissingModelError: the source cannot be reached, or what comes is not what was published.
        UsageError: there is no folder ``weights_dir``.
    """
    for checkpoint in checkpoints:
        if _search(checkpoint, weights_dir) is None:
            notify(f"{checkpoint}, from {checkpoint.source}")
            with _download_errors(checkpoint):
                (_download if checkpoint.is_url else _snapshot)(checkpoint)
        locate(checkpoint, weights_dir)


def short_hash(file: Path) -> str:
    """The first 12 digits of a file's SHA-256: enough to distinguish weights of one name in a report."""
    return _hash(file, file.stat().st_mtime_ns)[:12]


@lru_cache(maxsize=64)
def _hash(file: Path, modified: int) -> str:
    """A file's SHA-256, computed once while it stays the same; the hub's cache has it in the file's name."""
    return blob_hash(file) or sha256(file)


def _is_published(checkpoint: Checkpoint, weights: Path) -> bool:
    """Whether weights have the published hash, or, where that is unknown, the published size."""
    state, digest = weights.stat(), checkpoint.sha256
    return _hash(weights, state.st_mtime_ns).startswith(digest) if digest else state.st_size == checkpoint.bytes


def _search(checkpoint: Checkpoint, weights_dir: Path | None) -> Path | None:
    """Returns where a checkpoint is, complete or not; None where there is nothing of it."""
    if weights_dir is not None and not weights_dir.is_dir():
        raise UsageError(f"--weights-dir: there is no folder {weights_dir}.")
    if weights_dir is not None and (weights_dir / checkpoint.name).exists():
        return weights_dir / checkpoint.name
    if checkpoint.is_url:
        file = _torch_folder() / checkpoint.name
        return file if file.is_file() else None
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = _snapshot(checkpoint, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    return folder if all(file.is_file() for file in checkpoint.required_files(folder)) else None


def _torch_folder() -> Path:
    """torch's cache folder for checkpoints that are single files."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TORCH_HOME") or f"{cache}/torch").expanduser() / "hub" / "checkpoints"


def _snapshot(checkpoint: Checkpoint, local_files_only: bool = False) -> Path:
    """The folder of a repository in the hub's cache; missing files are downloaded unless ``local_files_only``."""
    from huggingface_hub import snapshot_download

    if not local_files_only:
        checked_hub()
    selection = {"revision": checkpoint.revision, "allow_patterns": list(checkpoint.files)}
    return Path(snapshot_download(checkpoint.source, local_files_only=local_files_only, **selection))


def _download(checkpoint: Checkpoint) -> None:
    """Downloads a file from its URL into torch's folder."""
    folder = _torch_folder()
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{checkpoint.name}.{os.getpid()}.part"
    try:
        with urlopen(checkpoint.source, timeout=TIMEOUT) as response, part.open("wb") as file:
            shutil.copyfileobj(response, file, PIECE)
        if not _is_published(checkpoint, part):
            raise MissingModelError(f"what {checkpoint.source} sent is not {checkpoint} as it was published.")
        part.replace(folder / checkpoint.name)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _download_errors(checkpoint: Checkpoint) -> Iterator[None]:
    """Turns the errors of a download into one sentence."""
    from huggingface_hub import is_offline_mode, logging
    from huggingface_hub.errors import HTTPError

    def missing(why: str) -> MissingModelError:
        return MissingModelError(f"the checkpoint {checkpoint} cannot be pulled: {why}.")

    if is_offline_mode():
        raise missing("HF_HUB_OFFLINE is set")
    logging.set_verbosity_error()  # it reports every attempt; one sentence at the end is enough
    try:
        yield
    except (OSError, HTTPError, HTTPException) as error:
        status = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise missing(f"{error.strerror} ({error.filename})") from error
        raise missing(f"its source answered {status}" if status else "its source cannot be reached") from error
