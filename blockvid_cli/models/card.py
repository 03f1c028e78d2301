"""What a model is: ``models/<name>/card.yaml``, read and checked without loading the model."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from blockvid_cli.errors import MissingModelError, UsageError, closest_name

PACKAGE = Path(__file__).resolve().parent.parent


class Part(BaseModel):
    """A part of a card; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LatentGrid(Part):
    """How pixels become latents: 1 + time·k frames of H x W pixels <-> 1 + k latents of H/space x W/space."""

    channels: int = Field(gt=0)
    time: int = Field(gt=0)
    space: int = Field(gt=0)


class FileRef(Part):
    """A file or folder beside the card or, with a ``repository``, in that repository of the Hugging Face hub."""

    file: str = ""
    repository: str | None = None
    revision: str = "main"


class TextEncoderFiles(FileRef):
    """What the network reads: the encoder's name, how many tokens, and whether captions are read as written.

    ``file`` and ``tokenizer`` are where the encoder and its tokenizer lie; a built-in encoder has neither.
    """

    tokens: int = Field(gt=0)
    rewriter: str = "none"
    tokenizer: str = ""
    parameters: int = 0  # of a large encoder, for what it needs of a device


class Weights(FileRef):
    """A trained part: what kind it is, where it lies, and its sizes."""

    file: str
    sha256: str | None = None  # of the file, where the card knows it
    config: dict[str, Any] = Field(default_factory=dict)


class Lora(FileRef):
    """A low-rank change that is added to the network's weights when they are read."""

    file: str
    scale: float = 1.0


class TransformerWeights(Weights):
    """The network, what its output stands for, and what is added to it."""

    predicts: str = "velocity"
    lora: Lora | None = None


class ModelCard(Part):
    """A model's sizes, default recipe and provenance; ``folder`` is where its weights lie."""

    name: str
    family: str
    summary: str
    licence: str
    noncommercial: bool = False
    size: tuple[int, int]
    fps: float = Field(gt=0)
    negative_prompt: str = ""  # what guidance leads away from, where a storyboard says nothing
    latent: LatentGrid
    patch: tuple[int, int, int]
    block: int = Field(gt=0)
    text: TextEncoderFiles
    transformer: TransformerWeights
    vae: Weights
    recipe: dict[str, Any]
    edition: str | None = None
    probe: str | None = None
    frame_conditioning: tuple[
        Literal["first", "last"], ...
    ] = ()  # a chunk may begin, and end, with a picture that is given
    provenance: dict[str, Any] = Field(default_factory=dict)
    limits: list[str] = Field(default_factory=list)
    folder: Path = Path()
    origin: Literal["bundled", "folder"] = "bundled"

    @field_validator("size", mode="before")
    @classmethod
    def _size(cls, value: object) -> object:
        return parse_size(value) if isinstance(value, str) else value

    @property
    def size_multiple(self) -> tuple[int, int]:
        """Width and height must be multiples of these (latent pixels times patch)."""
        return self.latent.space * self.patch[2], self.latent.space * self.patch[1]

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        """(C, H, W) of one latent frame of a picture of ``size`` (width, height)."""
        width, height = size
        return self.latent.channels, height // self.latent.space, width // self.latent.space

    @property
    def files(self) -> list[FileRef]:
        """All that has to be there before a film can be drawn."""
        text, lora = self.text, self.transformer.lora
        told = [text, text.model_copy(update={"file": text.tokenizer})]
        return [part for part in (self.transformer, lora, self.vae, *told) if part is not None and part.file]


def parse_size(text: str) -> tuple[int, int]:
    """``"832x480"`` -> (832, 480).

    Raises:
        ValueError: it is not WIDTHxHEIGHT.
    """
    match = re.fullmatch(r"\s*(\d{1,5})\s*[xX×]\s*(\d{1,5})\s*", text)
    if not match or int(match[1]) == 0 or int(match[2]) == 0:
        raise ValueError(f"a size is WIDTHxHEIGHT, like 832x480; not '{text}'")
    return int(match[1]), int(match[2])


def packaged_folder(folder: str) -> Path:
    """A folder that travels with the package: ``models`` or ``storyboards``."""
    inside = PACKAGE / f"_{folder}"
    return inside if inside.is_dir() else PACKAGE.parent / folder


def bundled_models() -> list[str]:
    """Names of the models that come with blockvid."""
    return sorted(path.parent.name for path in packaged_folder("models").glob("*/card.yaml"))


def find_card(name: str) -> ModelCard:
    """The card of a bundled model, or of a folder that holds a ``card.yaml``.

    Raises:
        MissingModelError: there is no such model.
        UsageError: the card is not a card.
    """
    bundled = packaged_folder("models") / Path(name).name / "card.yaml" if Path(name).name == name else Path()
    for file, origin in ((bundled, "bundled"), (Path(name) / "card.yaml", "folder")):
        with suppress(OSError):  # a name that no file can have
            if file.is_file():
                return read_card(file, origin)
    guess = closest_name(name, bundled_models())
    hint = f" Did you mean '{guess}'?" if guess else ""
    raise MissingModelError(
        f"there is no model called '{name}'.{hint} Bundled: {', '.join(bundled_models()) or 'none'};"
        " or give a folder that holds a card.yaml."
    )


def read_card(file: Path, origin: str = "folder") -> ModelCard:
    """Reads and checks one card."""
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        return ModelCard.model_validate({**values, "folder": file.parent, "origin": origin})
    except (yaml.YAMLError, TypeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: this card is not YAML that can be read ({error}).") from error
    except OSError as error:
        raise UsageError(f"{file}: this card cannot be read ({error.strerror}).") from error
    except ValidationError as error:
        found = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")[0]
        field = ".".join(str(part) for part in found["loc"])
        guess = closest_name(str(found["loc"][-1]), list(ModelCard.model_fields)) if len(found["loc"]) == 1 else None
        hint = f" Did you mean '{guess}'?" if guess and guess != field else ""
        raise UsageError(f"{file}: '{field}': {found['msg']}.{hint}") from error
