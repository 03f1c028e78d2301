"""Guidance pictures: read with care, turned upright, laid on white, and cropped to the film's size."""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from blockvid_cli.errors import UsageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # none that runs a program of its own
LARGEST = 64_000_000  # pixels; a small file may claim many more
HEAVIEST = 256 * 2**20  # bytes
TOLD = 0.005  # a smaller share may be cropped without a word
ENLARGED = 1.5  # a picture that must grow by more is told of
DEEP = 257  # 65535 / 255
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, TypeError, KeyError, IndexError, struct.error, zlib.error)


@dataclass(frozen=True, eq=False)
class ReferenceImage:
    """A picture that a film is to show: its pixels (H, W, 3) uint8 at the film's size, and the hash of its file."""

    file: Path
    sha256: str
    pixels: np.ndarray
    notes: tuple[str, ...] = ()  # what was done to it that one may not expect


def read_reference_image(file: Path, size: tuple[int, int]) -> ReferenceImage:
    """A picture at a film's size (width, height): upright as its camera says, transparent parts white, cropped around
    the middle.

    Raises:
        UsageError: it cannot be read, is no still picture, or is too large.
    """
    try:
        heavy = file.stat().st_size > HEAVIEST
        data = b"" if heavy else file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file.name} cannot be read ({error.strerror}).") from error
    if heavy or not data:
        what = f"is larger than {HEAVIEST >> 20} MiB" if heavy else "is empty"
        raise UsageError(f"{file.name} {what}; give a picture like a PNG or JPEG.")
    picture = _upright(data, file.name)
    clear = picture.has_transparency_data
    fitted = ImageOps.fit(_on_white(picture) if clear else picture.convert("RGB"), size, Image.Resampling.LANCZOS)
    notes = (*_notes(picture.size, size), *(["its transparent parts are white"] if clear else []))
    return ReferenceImage(
        file, hashlib.sha256(data).hexdigest(), np.array(fitted), tuple(f"{file.name}: {note}" for note in notes)
    )


def _upright(data: bytes, name: str) -> Image.Image:
    """The picture that a file holds, as its camera was held, 8 bits a channel."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # there is a limit of our own
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > LARGEST:
            raise UsageError(
                f"{name} has {picture.width}x{picture.height} pixels, more than {LARGEST // 10**6} million;"
                " give a smaller copy of it."
            )
        if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:  # an MPO's others are copies, for a screen
            raise UsageError(f"{name} holds more than one picture; give one that stands still.")
        return _eight_bits(ImageOps.exif_transpose(picture), name)
    except Image.DecompressionBombError as error:
        raise UsageError(f"{name} has far more than {LARGEST // 10**6} million pixels; give a small copy.") from error
    except DAMAGED as error:
        raise UsageError(
            f"{name} is not a picture, or is damaged; give a {', '.join(FORMATS[:-1])} or {FORMATS[-1]}."
        ) from error


def _eight_bits(picture: Image.Image, name: str) -> Image.Image:
    """The same with 8 bits a channel; Pillow itself would clip what is deeper to white."""
    if picture.mode == "F":
        raise UsageError(f"{name} holds fractions; save it as a PNG of 8 or 16 bits.")
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64).clip(0, 255 * DEEP)
        return Image.fromarray(((values + DEEP // 2) // DEEP).astype(np.uint8))
    picture.load()
    return picture


def _on_white(picture: Image.Image) -> Image.Image:
    """A picture with transparent parts as it lies on paper."""
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _notes(own: tuple[int, int], film: tuple[int, int]) -> list[str]:
    """What happened to a picture of one size (width, height) to bring it to another."""
    (width, height), (across, down) = own, film
    scale = max(across / width, down / height)
    lost = (1 - across / (width * scale), 1 - down / (height * scale))
    notes = []
    if max(lost) > TOLD:
        side = "width" if lost[0] > lost[1] else "height"
        notes.append(
            f"{width}x{height} is cropped to the shape of {across}x{down}, {max(lost):.0%} of its {side} is lost"
        )
    if scale > ENLARGED:
        notes.append(f"{width}x{height} is enlarged {scale:.1f} times")
    return notes
