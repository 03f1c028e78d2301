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
    """The text encoder's files, its longest prompt in tokens, and the rewriter that turns captions into prompts.

    ``file`` and ``tokenizer`` are the encoder and its tokenizer; an encoder that comes with a package has neither.
    """

    tokens: int = Field(gt=0)
    rewriter: str = "none"
    tokenizer: str = ""
    parameters: int = 0  # of a large encoder; planning counts its memory and time


class Weights(FileRef):
    """A trained module: its file, and the sizes it is built with."""

    file: str = Field()
    sha256: str | None = None  # of the file, where the card knows it
    config: dict[str, Any] = Field(default_factory=dict)


class LoraRef(FileRef):
    """A LoRA that is merged into the transformer's weights when they are read."""

    file: str = Field()
    scale: float = 1.0


class TransformerWeights(Weights):
    """The transformer, what its output is (velocity, or clean latents), and the LoRA that is merged into it."""

    predicts: str = "velocity"
    lora: LoraRef | None = None


class ModelSizes(Part):
    """Counts that planning needs, so that nothing has to be built to estimate bytes and seconds.

    A test builds the networks of every card without memory and compares.
    """

    transformer_params: int = Field(gt=0)  # weights of the transformer
    linear_params: int = Field(gt=0)  # those of its blocks' linear layers, which int8 and nf4 quantize
    channels: int = Field(gt=0)  # of a token
    layers: int = Field(gt=0)
    vae_channels: int = Field(gt=0)  # the VAE's base width
    vae_decode_flops: float = Field(gt=0)  # floating-point operations to decode one latent pixel


class ModelCard(Part):
    """A model's family, sizes, default recipe and provenance; ``folder`` is where its weights lie."""

    name: str
    family: str  # a row of ``models.registry.FAMILIES``
    summary: str
    licence: str
    noncommercial: bool = False
    size: tuple[int, int]
    fps: float = Field(gt=0)
    negative_prompt: str = ""  # what guidance steers away from, where a storyboard says nothing
    latent: LatentGrid
    patch: tuple[int, int, int]
    block: int = Field(gt=0)
    trained_frames: int | None = Field(default=None, gt=0)  # latent frames: positions beyond were not seen in training
    text: TextEncoderFiles
    transformer: TransformerWeights
    vae: Weights
    sizes: ModelSizes | None = None  # without them they are computed from the configurations
    recipe: dict[str, Any]
    edition: str | None = None
    probe: str | None = None
    frame_conditioning: tuple[Literal["first", "last"], ...] = ()  # which frames of a chunk may be given as an image
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
        """(C, H, W) of one latent frame at ``size`` (width, height) in pixels."""
        width, height = size
        return self.latent.channels, height // self.latent.space, width // self.latent.space

    @property
    def files(self) -> list[FileRef]:
        """All files that must be on this machine before a film can be rendered."""
        text, lora = self.text, self.transformer.lora
        parts = (self.transformer, lora, self.vae, text, text.model_copy(update={"file": text.tokenizer}))
        return [part for part in parts if part is not None and part.file]


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
    """A folder that is installed with the package: ``models`` or ``storyboards``."""
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
        fault = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")[0]
        field = ".".join(str(part) for part in fault["loc"])
        guess = closest_name(str(fault["loc"][-1]), list(ModelCard.model_fields)) if len(fault["loc"]) == 1 else None
        hint = f" Did you mean '{guess}'?" if guess and guess != field else ""
        raise UsageError(f"{file}: '{field}': {fault['msg']}.{hint}") from error
