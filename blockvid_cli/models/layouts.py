"""How published Wan checkpoints name their tensors, and what diffusers calls the same tensors.

    original    blocks.7.self_attn.q.weight     Wan 2.1, SkyReels-V2, and the Self-Forcing family inside its containers
    diffusers   blocks.7.attn1.to_q.weight      the -Diffusers repositories

Training wrappers leave prefixes behind (``model.``, FSDP's, torch.compile's); ``plain`` takes them off. One table
serves both directions, so that a conversion there and back gives every name again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

CONTAINERS = ("generator_ema", "generator", "generator_lora", "model", "state_dict")  # the first that is there counts
WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
PREFIXES = ("base_model.model.", "diffusion_model.", "transformer.", "model.")

OUTSIDE = {
    "patch_embedding": "patch_embedding",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
    "fps_embedding": "fps_embedding",
    "fps_projection.0": "fps_projection.net.0.proj",
    "fps_projection.2": "fps_projection.net.2",
}
_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
INSIDE = {  # of a block; the affine norm before the cross-attention is the third to Wan and the second to diffusers
    "modulation": "scale_shift_table",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    **{f"self_attn.{ours}": f"attn1.{theirs}" for ours, theirs in _ATTENTION.items()},
    **{f"cross_attn.{ours}": f"attn2.{theirs}" for ours, theirs in _ATTENTION.items()},
}
_BLOCK = re.compile(r"(blocks\.\d+\.)(.+)")


def strip_wrappers(name: str) -> str:
    """A tensor's name without what training wrappers put around it."""
    for infix in WRAPPERS:
        name = name.replace(infix, "")
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name


def is_original(names: Iterable[str]) -> bool:
    """Whether names are those of the original Wan code."""
    return any(".self_attn." in name or name.startswith("head.") for name in names)


def to_diffusers(name: str) -> str:
    """What diffusers calls a tensor of the original code; a name of neither table stays as it is."""
    return _renamed(name, OUTSIDE, INSIDE)


def to_original(name: str) -> str:
    """What the original code calls a tensor of diffusers; a name of neither table stays as it is."""
    return _renamed(name, {new: old for old, new in OUTSIDE.items()}, {new: old for old, new in INSIDE.items()})


def _renamed(name: str, outside: dict[str, str], inside: dict[str, str]) -> str:
    block = _BLOCK.fullmatch(name)
    head, rest, table = (block[1], block[2], inside) if block else ("", name, outside)
    stem, dot, kind = rest.rpartition(".")
    if rest in table:  # a bare parameter, such as a modulation
        return head + table[rest]
    return head + table.get(stem, stem) + dot + kind
