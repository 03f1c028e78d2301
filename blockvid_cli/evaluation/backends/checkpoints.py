"""The checkpoints of the vbench tier: which files they are, where they lie on this machine, and how they come there.

    dinov2-base/, clip-vit-base-patch32/, ...   config.json, the weights and, for captions, the tokenizer's files
    raft_large_C_T_V1-22a6c225.pth, ...         files by themselves

They are looked for by these names in the folder that ``--weights-dir`` names, then where their libraries keep them: the
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
from blockvid_cli.models.hub import PIECE, blob_hash, sha256

SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
TIMEOUT = 60  # seconds without an answer
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True)
class Checkpoint:
    """What others have trained: for what ``use``, and its ``source``: a repository on the hub, or a URL.

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
        """Of its folder (from the hub) or its file (from a URL) among others."""
        return self.source.rsplit("/", 1)[-1]

    @property
    def is_url(self) -> bool:
        """Whether it is a file by itself."""
        return "://" in self.source

    def parts(self, home: Path) -> list[Path]:
        """Its weights' file, then what else it is nothing without, where ``home`` is what ``find`` found."""
        return [home] if self.is_url else [home / file for file in self.files[:2]]

    def label(self, home: Path) -> str:
        """Its name, and what tells its weights from others of that name."""
        return f"{self.name} {identity(self.parts(home)[0])}"

    def __str__(self) -> str:
        units = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("bytes", 1))
        unit, one = next(pair for pair in units if self.bytes >= pair[1] or pair[1] == 1)
        return f"'{self.name}' (for {self.use}; {self.bytes / one:.3g} {unit}, {self.licence})"


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


def find(checkpoint: Checkpoint, weights_dir: Path | None = None) -> Path:
    """Where a checkpoint lies: its folder if it is from the hub, else its file. Nothing is downloaded.

    Raises:
        MissingModelError: it is not here, not whole, or not what was published; the sentence says what brings it.
        UsageError: there is no folder ``weights_dir``.
    """
    home = _lies(checkpoint, weights_dir)
    if home is None:
        needed = "" if checkpoint.is_url else f"/ with {' and '.join(checkpoint.files[:2])}"
        raise MissingModelError(
            f"the checkpoint {checkpoint} is not on this machine: 'blockvid eval --tier vbench --pull ...' downloads it"
            f" from {checkpoint.source}, and '--weights-dir DIR' finds it as DIR/{checkpoint.name}{needed}."
        )
    for file in checkpoint.parts(home):
        if not file.is_file():
            raise MissingModelError(f"the checkpoint {checkpoint} is not whole: {file} is absent.")
    weights = checkpoint.parts(home)[0]
    if not _genuine(checkpoint, weights):
        raise MissingModelError(
            f"{weights} is not the checkpoint {checkpoint} as it was published;"
            " remove it, and '--pull' brings it again."
        )
    return home


def pull(checkpoints: Iterable[Checkpoint], tell: Callable[[str], None], weights_dir: Path | None = None) -> None:
    """Downloads what is not on this machine, each file whole or not at all; ``tell`` hears of each before.

    Raises:
        MissingModelError: the source cannot be reached, or what comes is not what was published.
        UsageError: there is no folder ``weights_dir``.
    """
    for checkpoint in checkpoints:
        if _lies(checkpoint, weights_dir) is None:
            tell(f"{checkpoint}, from {checkpoint.source}")
            with _telling(checkpoint):
                (_fetch if checkpoint.is_url else _snapshot)(checkpoint)
        find(checkpoint, weights_dir)


def identity(file: Path) -> str:
    """The first 12 digits of a file's SHA-256: enough to tell weights of one name apart in a report."""
    return _hash(file, file.stat().st_mtime_ns)[:12]


@lru_cache(maxsize=64)
def _hash(file: Path, changed: int) -> str:
    """A file's SHA-256, read once while it stays the same; the hub's cache knows it by name."""
    return blob_hash(file) or sha256(file)


def _genuine(checkpoint: Checkpoint, weights: Path) -> bool:
    """Whether weights are what was published, as far as that is known."""
    state = weights.stat()
    known = checkpoint.sha256
    return _hash(weights, state.st_mtime_ns).startswith(known) if known else state.st_size == checkpoint.bytes


def _lies(checkpoint: Checkpoint, weights_dir: Path | None) -> Path | None:
    """Where a checkpoint is to be read, whole or not; None where nothing of it is here."""
    if weights_dir is not None and not weights_dir.is_dir():
        raise UsageError(f"--weights-dir: there is no folder {weights_dir}.")
    if weights_dir is not None and (weights_dir / checkpoint.name).exists():
        return weights_dir / checkpoint.name
    if checkpoint.is_url:
        file = _torch_folder() / checkpoint.name
        return file if file.is_file() else None
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = _snapshot(checkpoint, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    return found if all(file.is_file() for file in checkpoint.parts(found)) else None


def _torch_folder() -> Path:
    """Where torch keeps checkpoints that are files."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("TORCH_HOME") or f"{cache}/torch").expanduser() / "hub" / "checkpoints"


def _snapshot(checkpoint: Checkpoint, local_files_only: bool = False) -> Path:
    """The folder of a repository's files in the hub's cache; what is missing is brought, unless told not to."""
    from huggingface_hub import snapshot_download

    which = {"revision": checkpoint.revision, "allow_patterns": list(checkpoint.files)}
    return Path(snapshot_download(checkpoint.source, local_files_only=local_files_only, **which))


def _fetch(checkpoint: Checkpoint) -> None:
    """Brings a file from its URL into torch's folder."""
    folder = _torch_folder()
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{checkpoint.name}.{os.getpid()}.part"
    try:
        with urlopen(checkpoint.source, timeout=TIMEOUT) as answer, part.open("wb") as file:
            shutil.copyfileobj(answer, file, PIECE)
        if not _genuine(checkpoint, part):
            raise MissingModelError(f"what {checkpoint.source} sent is not {checkpoint} as it was published.")
        part.replace(folder / checkpoint.name)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _telling(checkpoint: Checkpoint) -> Iterator[None]:
    """What the errors of a download mean, in one sentence."""
    from huggingface_hub import is_offline_mode, logging
    from huggingface_hub.errors import HTTPError

    def missing(why: str) -> MissingModelError:
        return MissingModelError(f"the checkpoint {checkpoint} cannot be pulled: {why}.")

    if is_offline_mode():
        raise missing("HF_HUB_OFFLINE is set")
    logging.set_verbosity_error()  # it tells of every try; one sentence at the end will do
    try:
        yield
    except (OSError, HTTPError, HTTPException) as error:
        status = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, OSError) and error.errno in OF_THE_DISK:
            raise missing(f"{error.strerror} ({error.filename})") from error
        raise missing(f"its source answered {status}" if status else "its source cannot be reached") from error
