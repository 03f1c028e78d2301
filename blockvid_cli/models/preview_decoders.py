"""The decoder for a quick look at a model's latents: its own where that is small, else TAEHV, else a linear map.

codec of the card     decoder                                needs
tiny                  the codec itself                       nothing more
Wan 2.1's             TAEHV, where its weights are found     23 MB; ``taew.bring`` fetches them
                      the linear map                         nothing
another               the codec itself                       its time and memory
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from blockvid_cli.errors import MissingModelError
from blockvid_cli.models.card import ModelCard
from blockvid_cli.models.checkpoint import read_checkpoint
from blockvid_cli.models.latent_rgb import LatentRGB
from blockvid_cli.models.registry import load_vae, match_keys
from blockvid_cli.models.taehv import TaehvDecoder
from blockvid_cli.models.taew import has_wan21_latents, taehv_weights
from blockvid_cli.models.vae import Decoder


@dataclass(frozen=True)
class PreviewDecoder:
    """A decoder, what it is (``own``, ``taehv``, ``colours``), and the file of TAEHV's weights."""

    decoder: Decoder
    kind: str
    file: Path | None = None


def load_preview_decoder(
    card: ModelCard, device: str, dtype: torch.dtype = torch.float32, linear: bool = False
) -> PreviewDecoder:
    """The quickest decoder of a model's latents that is on this machine; nothing is downloaded.

    Args:
        dtype: what TAEHV and the model's own codec compute in.
        linear: the linear map even where TAEHV's weights are found.

    Raises:
        MissingModelError: weights are found but damaged or of another layout, or the model's own codec is absent.
    """
    if not has_wan21_latents(card):
        return PreviewDecoder(load_vae(card, device, dtype if card.family != "storybook" else torch.float32), "own")
    file = None if linear else taehv_weights(card)
    if file is None:
        return PreviewDecoder(LatentRGB().to(device), "colours")
    return PreviewDecoder(load_taehv(file).to(device, dtype), "taehv", file)


def load_taehv(file: Path) -> TaehvDecoder:
    """The decoder with the weights of a published file; the encoder's are left in it.

    Raises:
        MissingModelError: the file is damaged, or holds not exactly this decoder.
    """
    tensors = {n: t for n, t in read_checkpoint(file).tensors.items() if n.startswith("decoder.")}
    with torch.device("meta"):
        decoder = TaehvDecoder()
    fit = match_keys(decoder, tensors)
    if not fit.whole or fit.unknown:
        raise MissingModelError(f"{file}: these are not the weights of TAEHV for Wan 2.1: {fit}.")
    values = {name: stored.read().to(torch.float32, copy=True) for name, stored in tensors.items()}
    decoder.load_state_dict(values, strict=True, assign=True)
    return decoder.eval().requires_grad_(False)
