"""Reads the images that chunks begin or end with: checked, turned upright, put on white, cropped to the film's size.

Where a model has a probe that reads pictures, they are compared with what their captions ask for.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from blockvid_cli.errors import UsageError, error_prefix, join_words, ranges
from blockvid_cli.files import FileTooLargeError, read_regular_file
from blockvid_cli.models.card import ModelCard
from blockvid_cli.models.loading import load_probe
from blockvid_cli.storyboard.plan import Plan
from blockvid_cli.storyboard.storyboard import Storyboard
from blockvid_cli.storybook.edition import Edition, read_edition
from blockvid_cli.storybook.probe import NOBODY, Probe, end_places
from blockvid_cli.storybook.settings import backdrop

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # none that runs a program of its own
MAX_PIXELS = 64_000_000  # a small file may claim many more
MAX_BYTES = 256_000_000
CROP_NOTE = 0.005  # a smaller share may be cropped without a note
ENLARGE_NOTE = 1.5  # a larger factor is noted
DEEP = 257  # 65535 / 255
EXAMPLES = 3  # pictures that a warning about many of them names
MAX_JUMP = 12  # pixels that an end picture may show a subject elsewhere; the probe is wrong by 3 at most
LEAST_CHANGE = 0.1  # of a colour channel, by which a pixel is not the backdrop's
FOREIGN_SHARE = 0.4  # of such pixels in a picture from another world; a test measures both kinds
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, struct.error, zlib.error)


@dataclass(frozen=True, eq=False)
class ReferenceImage:
    """An image that a film is to show: its pixels (H, W, 3) uint8 at the film's size, and the hash of its file."""

    file: Path
    sha256: str
    pixels: np.ndarray
    notes: tuple[str, ...] = ()  # what was changed that a person may not expect


def read_reference_images(storyboard: Storyboard, card: ModelCard, plan: Plan) -> dict[int, ReferenceImage]:
    """The images that chunks begin and end with, by the latent frame that shows each.

    Raises:
        StoryboardError: an image cannot be read, or the model cannot use it; with the chunk's file and line.
    """
    images: dict[int, ReferenceImage] = {}
    for source, chunk in zip(storyboard.chunks, plan.chunks, strict=True):
        last = -(-(chunk.end_frame - 1) // card.latent.time)  # of those that are seen: the film's end may be trimmed
        for name, side, file, number in (
            ("image", "first", chunk.image, chunk.blocks[0].first),
            ("end_image", "last", chunk.end_image, last),
        ):
            if file is None:
                continue
            with error_prefix(f"{source.location}: {name}"):
                if side not in card.frame_conditioning:
                    verb = "begin" if side == "first" else "end"
                    raise UsageError(f"the model '{card.name}' cannot {verb} a chunk with a picture.")
                if number in images:
                    raise UsageError("the chunk is too short for two pictures; make it longer, or keep one of them.")
                images[number] = read_reference_image(file, plan.size)
    return images


def compare_with_captions(card: ModelCard, plan: Plan, images: Mapping[int, ReferenceImage]) -> Plan:
    """The plan with a warning at each chunk whose picture contradicts its caption; as it is, without a probe.

    Args:
        images: by the latent frame that shows each.
    """
    if card.probe is None or card.edition is None or not images:
        return plan
    probe, edition, found = load_probe(card), read_edition(card.folder / card.edition), dict[int, list[str]]()
    pictures = {number: _picture(image.pixels, edition.size) for number, image in images.items()}
    firsts = {chunk.blocks[0].first: chunk.number for chunk in plan.chunks}
    starts = {firsts[number]: _place(probe, picture) for number, picture in pictures.items() if number in firsts}
    ends = end_places(plan.chunks, edition, starts)
    for number, picture in sorted(pictures.items()):
        chunk = next(chunk for chunk in plan.chunks if number < chunk.blocks[-1].frame_indices.stop)
        end = None if number in firsts else ends[chunk.number]
        foreign = "is not from the world that the model draws; it is shown for one frame"
        contradiction = foreign if is_foreign(picture, edition) else _contradiction(probe, picture, chunk.prompt, end)
        if contradiction:
            field = "image" if number in firsts else "end_image"
            found.setdefault(chunk.number, []).append(f"{field} {images[number].file.name} {contradiction}")
    if not found:
        return plan
    chunks = (replace(chunk, warnings=(*chunk.warnings, *found.get(chunk.number, ()))) for chunk in plan.chunks)
    cases = [case for several in found.values() for case in several]
    more = [f"{len(cases) - EXAMPLES} more"] if len(cases) > EXAMPLES else []
    warning = (
        f"{ranges('chunk', list(found))}: {join_words([*cases[:EXAMPLES], *more])}. The film will show such a picture"
        " for a moment, and dissolve it into what the caption says, or jump; write into the caption what the picture"
        " shows, or give another picture."
    )
    return replace(plan, chunks=tuple(chunks), warnings=(*plan.warnings, warning))


def is_foreign(picture: torch.Tensor, edition: Edition) -> bool:
    """Whether a picture (1, 3, H, W) has the backdrop of no setting and light; a subject covers a part of it only."""
    backdrops = torch.stack([backdrop(*names, edition.size) for names in product(edition.settings, edition.lights)])
    changed = (backdrops - picture).abs().amax(1) > LEAST_CHANGE
    return len(edition.cameras) == 1 and float(changed.float().mean((1, 2)).min()) > FOREIGN_SHARE


def _contradiction(probe: Probe, picture: torch.Tensor, prompt: str, end: float | None) -> str:
    """In which way a picture (1, 3, H, W) contradicts a prompt; "" where it does not.

    Args:
        end: of an end picture, where the prompt leads the subject to, in pixels from the left.
    """
    shown = probe.contradictions(picture[0], prompt)
    if shown:
        others = join_words([f"{attribute} ({name})" for attribute, name in shown.items()])
        return f"shows another {others} than '{prompt}' asks for"
    if end is None or NOBODY in prompt.lower():
        return ""
    distance = _place(probe, picture) - end
    side = "left" if distance < 0 else "right"
    return f"shows the subject further {side} than '{prompt}' leads it" if abs(distance) > MAX_JUMP else ""


def _place(probe: Probe, picture: torch.Tensor) -> float:
    return float(probe.places(picture)[0, 0])


def _picture(pixels: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """Pixels (H, W, 3) uint8 at a size (width, height): (1, 3, height, width) in 0..1."""
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    return torch.nn.functional.interpolate(picture, size=size[::-1], mode="bilinear", antialias=True)


def read_reference_image(file: Path, size: tuple[int, int]) -> ReferenceImage:
    """Reads an image at a film's size (width, height): upright by its EXIF tag, transparent parts white, cropped
    around the middle.

    Raises:
        UsageError: it cannot be read, is no still image, or is too large.
    """
    try:
        data = read_regular_file(file, MAX_BYTES)
    except FileTooLargeError as error:
        raise UsageError(f"{file.name} is {error.strerror}; give a picture like a PNG or JPEG.") from error
    except OSError as error:
        raise UsageError(f"{file.name} cannot be read ({error.strerror}).") from error
    if not data:
        raise UsageError(f"{file.name} is empty; give a picture like a PNG or JPEG.")
    image = _decode(data, file.name)
    transparent = image.has_transparency_data
    rgb = _on_white(image) if transparent else image.convert("RGB")
    pixels = np.array(ImageOps.fit(rgb, size, Image.Resampling.LANCZOS))
    notes = (*_notes(image.size, size), *(["its transparent parts are white"] if transparent else []))
    return ReferenceImage(
        file, hashlib.sha256(data).hexdigest(), pixels, tuple(f"{file.name}: {note}" for note in notes)
    )


def _decode(data: bytes, name: str) -> Image.Image:
    """Decodes an image file, upright, 8 bits per channel."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is the limit here
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise UsageError(
                f"{name} has {image.width}x{image.height} pixels, more than {MAX_PIXELS // 10**6} million;"
                " give a smaller copy of it."
            )
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # an MPO's others are copies, for a screen
            raise UsageError(f"{name} holds more than one picture; give one that stands still.")
        return _eight_bits(ImageOps.exif_transpose(image), name)
    except Image.DecompressionBombError as error:
        raise UsageError(
            f"{name} has far more than {MAX_PIXELS // 10**6} million pixels; give a small copy."
        ) from error
    except DECODE_ERRORS as error:
        raise UsageError(
            f"{name} is not a picture, or is damaged; give a {', '.join(FORMATS[:-1])} or {FORMATS[-1]}."
        ) from error


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Returns the image with 8 bits per channel; Pillow itself would clip deeper ones to white."""
    if image.mode == "F":
        raise UsageError(f"{name} holds fractions; save it as a PNG of 8 or 16 bits.")
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64).clip(0, 255 * DEEP)
        return Image.fromarray(((values + DEEP // 2) // DEEP).astype(np.uint8))
    image.load()
    return image


def _on_white(image: Image.Image) -> Image.Image:
    """Puts an image with transparent parts on a white background."""
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _notes(image: tuple[int, int], film: tuple[int, int]) -> list[str]:
    """What it takes to bring an image of one size (width, height) to another."""
    (width, height), (film_width, film_height) = image, film
    scale = max(film_width / width, film_height / height)
    cropped = (1 - film_width / (width * scale), 1 - film_height / (height * scale))
    notes = []
    if max(cropped) > CROP_NOTE:
        side = "width" if cropped[0] > cropped[1] else "height"
        notes.append(
            f"{width}x{height} is cropped to the shape of {film_width}x{film_height},"
            f" {max(cropped):.0%} of its {side} is lost"
        )
    if scale > ENLARGE_NOTE:
        notes.append(f"{width}x{height} is enlarged {scale:.1f} times")
    return notes
