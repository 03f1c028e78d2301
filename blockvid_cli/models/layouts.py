"""What tensors are called: published checkpoints name the same tensors differently.

    original    blocks.7.self_attn.q.weight     Wan 2.1, SkyReels-V2, and the Self-Forcing family inside its containers
    diffusers   blocks.7.attn1.to_q.weight      the -Diffusers repositories

A ``KeyMap`` translates to the names that diffusers uses. Training wrappers leave prefixes behind (``model.``, FSDP's,
torch.compile's); ``strip_wrappers`` removes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
PREFIXES = ("base_model.model.", "diffusion_model.", "transformer.", "model.")
_BLOCK = re.compile(r"(blocks\.\d+\.)(.+)")


@dataclass(frozen=True)
class KeyMap:
    """Names of a family's original code against diffusers', one to one, so that both directions use the same tables.

    Args:
        name: of the original layout, for reports.
        outside: stems of tensors outside the blocks, original to diffusers.
        inside: the same within a block, without the block's prefix.
        marks: a name that contains one of these, or starts with one that ends in a dot, is of the original code.
    """

    name: str
    outside: Mapping[str, str]
    inside: Mapping[str, str]
    marks: tuple[str, ...]

    def is_original(self, names: Iterable[str]) -> bool:
        """Whether names are those of the original code."""
        return any(mark in name if mark[0] == "." else name.startswith(mark) for name in names for mark in self.marks)

    def to_diffusers(self, name: str) -> str:
        """What diffusers calls a tensor of the original code; a name of neither table stays as it is."""
        return _rename(name, self.outside, self.inside)

    def to_original(self, name: str) -> str:
        """What the original code calls a tensor of diffusers; a name of neither table stays as it is."""
        return _rename(name, {new: old for old, new in self.outside.items()}, {n: o for o, n in self.inside.items()})


def _rename(name: str, outside: Mapping[str, str], inside: Mapping[str, str]) -> str:
    block = _BLOCK.fullmatch(name)
    head, rest, table = (block[1], block[2], inside) if block else ("", name, outside)
    stem, dot, kind = rest.rpartition(".")
    if rest in table:  # a bare parameter, such as a modulation
        return head + table[rest]
    return head + table.get(stem, stem) + dot + kind


_ATTENTION = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
WAN_KEYS = KeyMap(
    name="original Wan",
    outside={
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
    },
    inside={  # the affine norm before the cross-attention is the third to Wan and the second to diffusers
        "modulation": "scale_shift_table",
        "norm3": "norm2",
        "ffn.0": "ffn.net.0.proj",
        "ffn.2": "ffn.net.2",
        **{f"self_attn.{original}": f"attn1.{diffusers}" for original, diffusers in _ATTENTION.items()},
        **{f"cross_attn.{original}": f"attn2.{diffusers}" for original, diffusers in _ATTENTION.items()},
    },
    marks=(".self_attn.", "head."),
)


def strip_wrappers(name: str) -> str:
    """A tensor's name without what training wrappers put around it."""
    for infix in WRAPPERS:
        name = name.replace(infix, "")
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name


LAYOUTS: dict[str, Callable[[str], str]] = {"diffusers": lambda name: name, "original": WAN_KEYS.to_original}
