"""Where a network's weights wait: on the device, or in main memory, from which blocks come when it is their turn."""

from __future__ import annotations

import torch
from torch import nn

GROUPS = {"group": "block_level", "sequential": "leaf_level"}


def waits(offload: str) -> bool:
    """Whether weights wait in main memory."""
    return offload in GROUPS


def brought_in_turn(network: nn.Module, offload: str, device: str) -> None:
    """Lets blocks ("group") or single layers ("sequential") of a network in main memory come when they are used."""
    from diffusers.hooks import apply_group_offloading

    apply_group_offloading(
        network,
        onload_device=torch.device(device),
        offload_device=torch.device("cpu"),
        offload_type=GROUPS[offload],
        num_blocks_per_group=1 if offload == "group" else None,
    )
