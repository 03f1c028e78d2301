"""Tiny random models in the exact layouts that Wan-family models are published in."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import yaml
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from torch import nn

from blockvid_cli.models.card import find_card
from blockvid_cli.models.layouts import WAN_KEYS
from blockvid_cli.models.wan.networks import SkyReelsV2Transformer3DModel, WanTransformer3DModel

NETWORK = {
    "patch_size": [1, 2, 2],
    "num_attention_heads": 2,
    "attention_head_dim": 24,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 32,
    "freq_dim": 32,
    "ffn_dim": 128,
    "num_layers": 2,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "rope_max_seq_len": 1024,
}
CODEC = {"base_dim": 8, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1}
LAYOUTS = ("diffusers", "sharded", "original", "container", "skyreels", "skyreels-diffusers", "lora")


def network(kind: str = "wan", seed: int = 0, **sizes: object) -> nn.Module:
    """A random network of a family."""
    torch.manual_seed(seed)
    config = {name: tuple(value) if isinstance(value, list) else value for name, value in {**NETWORK, **sizes}.items()}
    if kind == "skyreels":
        return SkyReelsV2Transformer3DModel(**{"inject_sample_info": True, **config}).eval().requires_grad_(False)
    return WanTransformer3DModel(**config).eval().requires_grad_(False)


def weights(module: nn.Module, original: bool = False) -> dict[str, torch.Tensor]:
    """A module's tensors, in the names of diffusers or of the original code."""
    state = {name: value.clone().contiguous() for name, value in module.state_dict().items()}
    return {WAN_KEYS.to_original(name): value for name, value in state.items()} if original else state


def write_network(folder: Path, layout: str) -> dict[str, object]:
    """Writes a random network in a layout; returns what the card says of it."""
    kind = "skyreels" if layout.startswith("skyreels") else "wan"
    made = network(kind)
    part: dict[str, object] = {"config": {**NETWORK}}
    if kind == "skyreels":
        part["config"] = {**NETWORK, "inject_sample_info": True}
    if layout in ("diffusers", "skyreels-diffusers"):
        made.save_pretrained(folder / "transformer")
        return {**part, "file": "transformer"}
    if layout == "sharded":
        made.save_pretrained(folder / "transformer", max_shard_size="100KB")
        assert (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").is_file()
        return {**part, "file": "transformer"}
    if layout in ("original", "skyreels"):
        save_file(weights(made, original=True), folder / "model.safetensors")
        return {**part, "file": "model.safetensors"}
    wrapped = {f"model._fsdp_wrapped_module.{name}": value for name, value in weights(made, original=True).items()}
    torch.save({"generator_ema": wrapped, "critic": {"w": torch.ones(2)}, "step": 7}, folder / "model.pt")
    if layout == "lora":
        torch.save({"generator_lora": lora()}, folder / "lora.pt")
        part["lora"] = {"file": "lora.pt"}
    return {**part, "file": "model.pt"}


def lora(rank: int = 4) -> dict[str, torch.Tensor]:
    """A LoRA of every linear layer of the blocks, in PEFT's names for the original code's."""
    torch.manual_seed(5)
    pairs = {}
    for name, layer in network().named_modules():
        if isinstance(layer, nn.Linear) and name.startswith("blocks."):
            stem = "base_model.model." + WAN_KEYS.to_original(f"{name}.weight").removesuffix(".weight")
            pairs[f"{stem}.lora_A.weight"] = torch.randn(rank, layer.in_features) * 0.1
            pairs[f"{stem}.lora_B.weight"] = torch.randn(layer.out_features, rank) * 0.1
    return pairs


def write_vae(folder: Path) -> dict[str, object]:
    """Writes a tiny ``AutoencoderKLWan`` with the published mean and deviation."""
    torch.manual_seed(1)
    AutoencoderKLWan(**CODEC).save_pretrained(folder / "vae")
    return {"file": "vae", "config": CODEC}


def write_text(folder: Path) -> dict[str, object]:
    """Writes a tiny UMT5 encoder and a tokenizer of single letters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    torch.manual_seed(2)
    letters = [chr(code) for code in range(33, 127)] + ["▁"]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -1.0) for letter in letters)]
    raw = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    made.save_pretrained(folder / "tokenizer")
    sizes = UMT5Config(vocab_size=len(vocabulary), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    UMT5EncoderModel(sizes).save_pretrained(folder / "text_encoder")
    return {"tokens": 64, "file": "text_encoder", "tokenizer": "tokenizer"}


def model(folder: Path, layout: str = "container", **changes: object) -> Path:
    """A whole model in a folder: card, network in a layout, codec, captions' encoder and tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    base = find_card("skyreels-v2-df-1.3b" if layout.startswith("skyreels") else "self-forcing")
    card = {
        "name": f"tiny-{layout}",
        "family": base.family,
        "summary": "Random weights; for tests.",
        "licence": "Apache-2.0",
        "size": "64x32",
        "fps": base.fps,
        "latent": {"channels": 16, "time": 4, "space": 8},
        "patch": [1, 2, 2],
        "block": base.block,
        "text": write_text(folder),
        "transformer": write_network(folder, layout),
        "vae": write_vae(folder),
        "recipe": {**base.recipe, "steps": 2} if layout.startswith("skyreels") else base.recipe,
        **changes,
    }
    (folder / "card.yaml").write_text(yaml.safe_dump(card), encoding="utf-8")
    return folder


def index_of(folder: Path) -> dict[str, str]:
    """The weight map of a sharded folder."""
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    return json.loads(file.read_text())["weight_map"]
