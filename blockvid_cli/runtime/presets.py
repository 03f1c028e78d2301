"""How a film is drawn on the machine at hand: in which precision, what lies where, what waits for its turn.

    h20     full precision, everything on the device
    24gb    half precision, everything on the device
    16gb    half precision; network, codec and captions take turns
    12gb    as 16gb, captions read on the CPU, pictures decoded in tiles
    8gb     as 12gb, 8-bit weights, remembered tokens in main memory and in 8 bits
    least   as 12gb, blocks of weights come to the device one after another, remembered tokens in main memory

``auto`` takes the first of these that fits into the memory that is free, on a GPU from ``24gb`` on; ``budget`` does the
sums. None of them changes how many frames a film has, and all but the precisions give the same film.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace

import torch

from blockvid_cli.errors import UsageError, choose
from blockvid_cli.models.offload import waits
from blockvid_cli.models.precision import KEPT, Precision, precision

OFFLOADS = ("none", "model", "group", "sequential")


@dataclass(frozen=True)
class Rung:
    """A profile by name, before it meets a device; options in the words of the command line."""

    precision: str
    offload: str = "none"
    storage: str = "device"
    storage_dtype: str = "as-drawn"
    at_hand: bool = False
    codec: str = "bf16"
    tiled: bool = False
    text: str = "device"  # or "cpu"


LADDER: dict[str, Rung] = {
    "h20": Rung("fp32", at_hand=True, codec="fp32"),
    "24gb": Rung("bf16", at_hand=True),
    "16gb": Rung("bf16", offload="model"),
    "12gb": Rung("bf16", offload="model", tiled=True, text="cpu"),
    "8gb": Rung("int8", offload="model", storage="host", storage_dtype="int8", tiled=True, text="cpu"),
    "least": Rung("bf16", offload="group", storage="host", tiled=True, text="cpu"),
}


@dataclass(frozen=True)
class Profile:
    """A rung on a device."""

    name: str
    device: str
    precision: Precision
    offload: str
    storage: str
    storage_dtype: str
    at_hand: bool  # whether what a block looks at stays joined and rotated for all its passes; a copy and a half of it
    codec_dtype: torch.dtype
    tiled: bool
    text_device: str

    @property
    def in_turns(self) -> bool:
        """Whether the network leaves the device before pictures are decoded."""
        return self.offload != "none"

    def __str__(self) -> str:
        words = [f"{self.precision.name} weights"]
        words += [] if self.offload == "none" else [f"{self.offload} offload"]
        words += [f"text encoder on {'the CPU' if self.text_device == 'cpu' else 'the device'}"]
        dtype = "" if self.storage_dtype == "as-drawn" else f", {self.storage_dtype}"
        words += [f"memory on the {self.storage}{dtype}" if self.storage != "latents" else "memory as latents"]
        return ", ".join([*words, *(["tiled decoding"] if self.tiled else [])])


@dataclass(frozen=True)
class Means:
    """What a person asks of the machine; "auto" and None leave it to the profile."""

    profile: str = "auto"
    precision: str = "auto"
    offload: str | None = None
    storage: str | None = None
    storage_dtype: str | None = None


AUTO = Means()


def profile(name: str, device: str, means: Means) -> Profile:
    """The profile of a name on a device, with what a person asked for over it.

    On the CPU nothing is moved, and full precision is usual.

    Raises:
        UsageError: an unknown name or option.
    """
    rung = choose("profile", LADDER, name)
    wanted = {
        "precision": means.precision if means.precision != "auto" else rung.precision,
        "offload": means.offload or rung.offload,
        "storage": means.storage or rung.storage,
        "storage_dtype": means.storage_dtype or rung.storage_dtype,
    }
    if wanted["offload"] not in OFFLOADS:
        raise UsageError(f"--offload: give {', '.join(OFFLOADS)}; not '{wanted['offload']}'.")
    rung = replace(rung, **wanted)
    if waits(rung.offload) and rung.precision in KEPT:
        raise UsageError(
            f"--offload {rung.offload}: quantised weights ({rung.precision}) cannot wait by parts; give model."
        )
    if waits(rung.offload) and rung.storage == "latents":
        raise UsageError(f"--memory-storage: latents needs the network whole; not with --offload {rung.offload}.")
    return Profile(
        name,
        device,
        precision(rung.precision, device),
        "model" if device == "cpu" and rung.offload != "none" else rung.offload,  # nothing to move
        rung.storage,
        rung.storage_dtype,
        rung.at_hand,
        torch.float32 if rung.codec == "fp32" or device == "cpu" else torch.bfloat16,
        rung.tiled,
        "cpu" if rung.text == "cpu" else device,
    )


def below(drawn: Profile, means: Means) -> str | None:
    """The next profile that needs less and can be had with what a person asked for; None below the last."""
    names = list(LADDER)
    for name in names[names.index(drawn.name) + 1 :]:
        with suppress(UsageError):
            return profile(name, drawn.device, means).name
    return None
