"""Where the weights of TAEHV for Wan 2.1 lie and come from; read without torch.

They are looked for beside the model's card, then in blockvid's own cache folder, then in the hub's cache.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from blockvid_cli.errors import MissingModelError
from blockvid_cli.models.card import ModelCard, Weights
from blockvid_cli.models.hub import blob_hash, cache_folder, hash_differs, local_path
from blockvid_cli.models.pull import pull_part

WAN21_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
TAEW21 = Weights(
    repository="OzzyGT/taew2_1",  # an unmodified copy; the author's own place is github.com/madebyollin/taehv
    file="taew2_1.safetensors",
    sha256="04766eac0221b5390b985ae3fdcca652cbb4b1e8b82b28ea7ff89dfad1b1a93f",
)
TAEW21_BYTES = 22_642_902
TAEW21_LICENCE = "MIT, (c) 2025 Ollin Boer Bohan"
BESIDE = ("taew2_1.safetensors", "taew2_1.pth", "lighttaew2_1.safetensors", "lighttaew2_1.pth")  # one layout


def has_wan21_latents(card: ModelCard) -> bool:
    """Whether a model's latents are Wan 2.1's; by their mean, since another autoencoder may have as many channels."""
    mean = card.vae.config.get("latents_mean")
    return card.family in ("wan", "skyreels") and mean is not None and tuple(mean) == WAN21_MEAN


def taehv_weights(card: ModelCard) -> Path | None:
    """Where TAEHV's weights lie on this machine; None where they do not."""
    for folder in (card.folder, cache_folder()):
        for name in BESIDE:
            if (folder / name).is_file():
                return folder / name
    with suppress(MissingModelError):
        file = local_path(card, TAEW21)
        return file if blob_hash(file) in (TAEW21.sha256, None) else None
    return None


def pull_taehv(card: ModelCard) -> Path:
    """Downloads TAEHV's weights into the hub's cache and checks their hash; for models with Wan 2.1's latents.

    Raises:
        MissingModelError: the hub cannot be reached, has them no more, or has others under that name.
    """
    file = pull_part(card, TAEW21)
    if hash_differs(file, TAEW21.sha256 or ""):
        raise MissingModelError(f"{file}: these are not the preview weights that are known here; the hash differs.")
    return file
