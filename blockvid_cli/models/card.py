"""What a model is: ``models/<name>/card.yaml``, read and checked without loading the model."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from blockvid_cli.errors import MissingModelError, closest_name, shorten
from blockvid_cli.files import read_plain_yaml, read_regular_file

PACKAGE = Path(__file__).resolve().parent.parent
MAX_CARD_BYTES = 1_000_000
MAX_SIDE = 16_384  # pixels
MAX_WEIGHTS = 10**13
MAX_SIZE = 10_000_000  # of anything in a network's configuration that is not in MAX_SIZES
MAX_SIZES = {"num_layers": 200, "num_res_blocks": 64, "dim_mult": 64, "encode_depth": 64, "decode_depth": 64}
_WORD = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}"  # no path: it begins with no dot and has no slash
_PART = r"[^\x00-\x1f\x7f/\\:*?\[\]]{1,100}"  # of a path; no sign that a pattern of file names would read
Form = TypeVar("Form")


def _matches(pattern: str, what: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text) or ".." in text:
            raise ValueError(f"{what}; not '{shorten(text)}'")
        return text

    return AfterValidator(check)


Name = Annotated[
    str, _matches(_WORD, "a name has letters, digits, dots, dashes and underscores, and begins with no dot")
]
RelativePath = Annotated[  # "" where there is none
    str, _matches(rf"(?:{_PART}(?:/{_PART}){{0,9}})?", "a file is named by its path below the folder, without '..'")
]
Repository = Annotated[str, _matches(rf"{_WORD}(?:/{_WORD})?", "a repository of the hub is owner/name")]
Revision = Annotated[
    str, _matches(rf"{_WORD}(?:/{_WORD}){{0,9}}", "a revision is a commit, a branch or a tag, without '..'")
]
Count = Annotated[int, Field(gt=0, le=100_000)]


def check_config(config: dict[str, Any]) -> dict[str, Any]:
    """The sizes of a network as its configuration has them, unless one is so large that building it would never end.

    Raises:
        ValueError: one is.
    """
    for name, value in config.items():
        largest = MAX_SIZES.get(name, MAX_SIZE)
        values = value if isinstance(value, list) else [value]
        wild = [number for number in values if isinstance(number, int | float) and not -largest <= number <= largest]
        if wild:
            raise ValueError(f"{shorten(name)} is {shorten(str(wild[0]))}; no network has more than {largest}")
        if isinstance(value, dict):
            check_config(value)
        if name == "eps" and not isinstance(value, int | float):
            raise ValueError(f"eps is {shorten(str(value))}, and must be a number")
    return config


Config = Annotated[dict[str, Any], AfterValidator(check_config)]


class Part(BaseModel):
    """A part of a card; unknown keys and numbers that are not finite are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class LatentGrid(Part):
    """How pixels become latents: 1 + time·k frames of H x W pixels <-> 1 + k latents of H/space x W/space."""

    channels: Count
    time: int = Field(gt=0, le=64)
    space: int = Field(gt=0, le=256)


class FileRef(Part):
    """A file or folder beside the card or, with a ``repository``, in that repository of the Hugging Face hub."""

    file: RelativePath = ""
    repository: Repository | None = None
    revision: Revision = "main"


class TextEncoderFiles(FileRef):
    """The text encoder's files, its longest prompt in tokens, and the rewriter that turns captions into prompts.

    ``file`` and ``tokenizer`` are the encoder and its tokenizer; an encoder that comes with a package has neither.
    """

    tokens: Count
    rewriter: str = "none"
    tokenizer: RelativePath = ""
    parameters: int = Field(0, ge=0, le=MAX_WEIGHTS)  # of a large encoder; planning counts its memory and time


class Weights(FileRef):
    """A trained module: its file, and the sizes it is built with."""

    file: RelativePath = Field(min_length=1)
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")  # of the file, where the card knows it
    config: Config = Field(default_factory=dict)


class LoraRef(FileRef):
    """A LoRA that is merged into the transformer's weights when they are read."""

    file: RelativePath = Field(min_length=1)
    scale: float = Field(1.0, ge=-100, le=100)


class TransformerWeights(Weights):
    """The transformer, what its output is (velocity, or clean latents), and the LoRA that is merged into it."""

    predicts: str = "velocity"
    lora: LoraRef | None = None


class ModelSizes(Part):
    """Counts that planning needs, so that nothing has to be built to estimate bytes and seconds.

    A test builds the networks of every card without memory and compares.
    """

    transformer_params: int = Field(gt=0, le=MAX_WEIGHTS)  # weights of the transformer
    linear_params: int = Field(gt=0, le=MAX_WEIGHTS)  # those of its blocks' linear layers, which int8 and nf4 quantize
    channels: Count  # of a token
    layers: Count
    vae_params: int = Field(gt=0, le=MAX_WEIGHTS)  # weights of the VAE
    vae_channels: Count  # the VAE's base width
    vae_decode_flops: float = Field(gt=0, le=1e18)  # floating-point operations to decode one latent pixel


def size_in_pixels(value: object) -> object:
    """Width and height where a text says them; anything else stays, and is checked by its form."""
    return parse_size(value) if isinstance(value, str) else value


Side = Annotated[int, Field(gt=0, le=MAX_SIDE)]
PatchSide = Annotated[int, Field(gt=0, le=16)]
Size = Annotated[tuple[Side, Side], BeforeValidator(size_in_pixels)]


class ModelCard(Part):
    """A model's family, sizes, default recipe and provenance; ``folder`` is where its weights lie."""

    name: Name
    family: str  # a row of ``models.registry.FAMILIES``
    summary: str
    licence: str
    noncommercial: bool = False
    size: Size
    trained_sizes: tuple[Size, ...] = Field((), max_length=100)  # those that its network draws; "size" alone if empty
    fps: float = Field(gt=0, le=1000)
    negative_prompt: str = ""  # what guidance steers away from, where a storyboard says nothing
    latent: LatentGrid
    patch: tuple[PatchSide, PatchSide, PatchSide]
    block: int = Field(gt=0, le=1000)
    trained_frames: int | None = Field(
        default=None, gt=0, le=100_000
    )  # latent frames: positions beyond were not seen in training
    text: TextEncoderFiles
    transformer: TransformerWeights
    vae: Weights
    sizes: ModelSizes | None = None  # without them they are computed from the configurations
    recipe: dict[str, Any]
    edition: RelativePath | None = None
    probe: RelativePath | None = None
    frame_conditioning: tuple[Literal["first", "last"], ...] = ()  # which frames of a chunk may be given as an image
    provenance: dict[str, Any] = Field(default_factory=dict)
    limits: list[str] = Field(default_factory=list)
    folder: Path = Path()
    origin: Literal["bundled", "folder"] = "bundled"

    @property
    def sizes_trained_for(self) -> tuple[tuple[int, int], ...]:
        """Widths and heights in pixels that the network was trained for; others it draws badly or not at all."""
        return self.trained_sizes or (self.size,)

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


def card_name(text: str) -> str:
    """A file's or folder's name as the name of a card: other characters than a name may have become dashes."""
    return re.sub(r"[^A-Za-z0-9._-]+|\.{2,}", "-", text).strip("-.")[:100] or "model"


def find_card(name: str) -> ModelCard:
    """The card of a bundled model, or of a folder that holds a ``card.yaml``.

    Raises:
        MissingModelError: there is no such model, or its card is not a card.
    """
    if name in bundled_models():
        return read_card(packaged_folder("models") / name / "card.yaml", "bundled")
    with suppress(OSError, ValueError):  # a name that no file can have
        if (Path(name) / "card.yaml").is_file():
            return read_card(Path(name) / "card.yaml")
    guess = closest_name(name, bundled_models())
    hint = f" Did you mean '{guess}'?" if guess else ""
    raise MissingModelError(
        f"there is no model called '{shorten(name, 200)}'.{hint} Bundled: {', '.join(bundled_models()) or 'none'};"
        " or give a folder that holds a card.yaml."
    )


def read_card(file: Path, origin: str = "folder") -> ModelCard:
    """Reads and checks one card.

    Raises:
        MissingModelError: the card is damaged; the sentence names the file and the key.
    """
    values = read_fields(file)
    return validated(file, TypeAdapter(ModelCard), {**values, "folder": file.parent, "origin": origin})


def read_fields(file: Path) -> dict[str, object]:
    """The fields of a small YAML file that belongs to a model: its card, or what its card names.

    Raises:
        MissingModelError: it cannot be read, or is no mapping of names to plain values.
    """
    try:
        values = read_plain_yaml(read_regular_file(file, MAX_CARD_BYTES).decode("utf-8"))
    except OSError as error:
        raise MissingModelError(f"{file}: this file cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise MissingModelError(f"{file}: this is not YAML that can be read ({error}).") from error
    if not isinstance(values, dict):
        raise MissingModelError(f"{file}: this file is no mapping (name: value).")
    return values


def validated(file: Path, form: TypeAdapter[Form], values: dict[str, Any], section: str = "") -> Form:
    """Values of a file in the form that they must have.

    Args:
        section: of the file, which precedes the names of fields in the sentence.

    Raises:
        MissingModelError: they have another; the sentence names the file and the first wrong field.
    """
    try:
        return form.validate_python(values)
    except ValidationError as error:
        fault = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")[0]
        field = shorten(".".join(str(part) for part in (section, *fault["loc"]) if part != ""), 100)
        guess = closest_name(str(fault["loc"][-1]), list(ModelCard.model_fields)) if len(fault["loc"]) == 1 else None
        hint = f" Did you mean '{guess}'?" if guess and guess != field else ""
        sentence = shorten(fault["msg"].removeprefix("Value error, "), 200)
        raise MissingModelError(f"{file}: '{field}': {sentence}.{hint}") from error
