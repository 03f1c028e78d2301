"""The table of model families: each row denoises; cards have the networks' sizes; planning builds nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from blockvid_cli.errors import RefusedModelError, UsageError
from blockvid_cli.models.card import bundled_models, find_card
from blockvid_cli.models.devices import precision
from blockvid_cli.models.find import find_model
from blockvid_cli.models.loading import load_denoiser, load_text_encoder, load_vae, meta_transformer, verify_model
from blockvid_cli.models.registry import FAMILIES, count_vae, has_wan21_latents, model_sizes
from blockvid_cli.rollout.kv_cache.base import KVView
from blockvid_cli.runtime.memory_estimate import estimate_memory
from blockvid_cli.runtime.presets import RuntimeOptions, resolve_preset
from tests import small, tiny_wan

ROOT = Path(__file__).parent.parent
FULL = precision("fp32", "cpu")
LAYOUTS = {"wan": "container", "skyreels": "skyreels"}  # the storybook family has the session's random model


def count_params(card) -> tuple[int, int]:
    network = meta_transformer(card)
    linear = [
        layer.weight.numel()
        for name, layer in network.named_modules()
        if isinstance(layer, torch.nn.Linear) and name.startswith("blocks.")
    ]
    return sum(weight.numel() for weight in network.parameters()), sum(linear)


@pytest.mark.parametrize("name", bundled_models())
def test_the_sizes_in_a_card_are_those_of_its_networks(name):
    card = find_card(name)
    assert card.sizes is not None
    assert (card.sizes.transformer_params, card.sizes.linear_params) == count_params(card)
    config = card.transformer.config
    assert card.sizes.channels == config["num_attention_heads"] * config["attention_head_dim"]
    assert card.sizes.layers == config["num_layers"] and tuple(config["patch_size"]) == card.patch
    assert (card.sizes.vae_params, card.sizes.vae_decode_flops) == count_vae(card)
    assert card.sizes == model_sizes(card.model_copy(update={"sizes": None}))  # the formula agrees


@pytest.mark.parametrize(
    "changes",
    [
        {"cross_attn_norm": False},
        {"num_layers": 3, "ffn_dim": 40, "text_dim": 8, "freq_dim": 16},
        {"patch_size": [1, 4, 2], "in_channels": 20, "num_attention_heads": 3},
    ],
)
def test_sizes_are_computed_from_a_configuration(changes, model):
    card = find_card(str(model))
    config = {**card.transformer.config, **changes}
    card = card.model_copy(update={"transformer": card.transformer.model_copy(update={"config": config})})
    for family in FAMILIES:
        row = card.model_copy(update={"family": family})
        computed = FAMILIES[family].sizes(config)
        assert (computed.params, computed.linear_params) == count_params(row)


def test_a_diffusers_folder_of_other_sizes_does_not_take_its_familys(tmp_path):
    folder = tiny_wan.model(tmp_path / "tiny", "diffusers")
    (folder / "card.yaml").unlink()
    card = find_model(str(folder))
    assert card.sizes is None and model_sizes(card).transformer_params == count_params(card)[0]
    assert model_sizes(card).vae_channels == tiny_wan.CODEC["base_dim"]


def test_a_card_with_wrong_sizes_is_refused(model):
    card = find_card(str(model))
    sizes = model_sizes(card)
    wrong = sizes.model_copy(update={"transformer_params": sizes.transformer_params + 1})
    assert verify_model(card.model_copy(update={"sizes": sizes}))
    with pytest.raises(UsageError, match=r"sizes\.transformer_params"):
        verify_model(card.model_copy(update={"sizes": wrong}))


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_loads_and_denoises(family, model, tmp_path):
    folder = tiny_wan.model(tmp_path / family, LAYOUTS[family]) if family in LAYOUTS else model
    card = find_model(str(folder))
    assert card.family == family
    vae, encoder = load_vae(card, "cpu"), load_text_encoder(card)
    prompt = encoder(["a swan"])
    denoiser = load_denoiser(card, "cpu", FULL)
    latents = vae.encode(torch.rand(9, 3, 32, 64))
    assert latents.shape == (3, *card.latent_shape((64, 32)))
    velocity, qkv = denoiser(latents[None], torch.tensor([0.7] * 3), prompt, torch.arange(3.0), KVView(record=True))
    assert velocity.shape == (1, *latents.shape) and torch.isfinite(velocity).all()
    assert len(qkv) == model_sizes(card).layers and denoiser.patch == card.patch
    assert [len(frames) for frames in vae.stream([latents[:2], latents[2:]])] == [5, 4]


def test_only_trainable_weights_take_gradients(model):
    card = find_card(str(model))
    fixed, trainable = (load_denoiser(card, "cpu", FULL, trainable=flag).network for flag in (False, True))
    assert not fixed.training and not any(weight.requires_grad for weight in fixed.parameters())
    assert trainable.training and all(weight.requires_grad for weight in trainable.parameters())
    with pytest.raises(UsageError, match="cannot be trained"):
        load_denoiser(card, "cpu", precision("int8", "cpu"), trainable=True)


def test_wan21_latents_are_told_by_family_and_mean(model):
    card = find_card("self-forcing")
    assert has_wan21_latents(card) and not has_wan21_latents(find_card(str(model)))
    assert not has_wan21_latents(card.model_copy(update={"family": "storybook"}))


def test_a_pickle_that_could_run_code_is_refused_and_not_missing(tmp_path):
    folder = tiny_wan.model(tmp_path / "tiny", "container")

    class Payload:
        def __reduce__(self):
            return print, ("must not run",)

    torch.save({"generator_ema": Payload()}, folder / "model.pt")
    with pytest.raises(RefusedModelError, match=r"is refused.*could run code.*safetensors") as refused:
        load_denoiser(find_model(str(folder)), "cpu", FULL)
    assert refused.value.exit_code == 3 and "missing" not in str(refused.value)


def test_a_frame_that_needs_its_own_sigma_needs_more_memory():
    card = find_card("skyreels-v2-df-1.3b")
    plan, recipe = small.plan(), small.recipe()
    preset = resolve_preset("24gb", "cuda", RuntimeOptions())
    plan = replace(plan, latent=card.latent_shape(card.size), size=card.size)
    modulated = estimate_memory(card, plan, recipe, 1, preset).phases["denoise"]
    shared = estimate_memory(card.model_copy(update={"family": "wan"}), plan, recipe, 1, preset).phases["denoise"]
    assert modulated > shared


def loaded_modules(code: str, home: str) -> set[str]:
    watched = ("torch", "diffusers", "transformers", "sentence_transformers", "bitsandbytes")
    script = f"import sys\n{code}\nprint([name for name in {watched!r} if name in sys.modules], file=sys.stderr)"
    run = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "BLOCKVID_HOME": home, "HF_HUB_OFFLINE": "1"},
        check=True,
    )
    return set(json.loads(run.stderr.strip().splitlines()[-1].replace("'", '"')))


CHECK = """
from blockvid_cli.commands.app import app
try:
    app(["storyboard", "check", "storyboards/swan.yaml"])
except SystemExit as end:
    assert not end.code, end.code
"""


def test_planning_with_cached_embeddings_imports_neither_diffusers_nor_transformers(tmp_path):
    home = str(tmp_path)
    assert "sentence_transformers" in loaded_modules(CHECK, home)  # the first check embeds the captions
    assert loaded_modules(CHECK, home) == {"torch"}


def test_the_table_of_families_is_read_without_the_libraries_it_names(tmp_path):
    listing = "from blockvid_cli.models.registry import FAMILIES\nassert len(FAMILIES) > 2"
    assert loaded_modules(listing, str(tmp_path)) == {"torch"}


def test_bitsandbytes_is_imported_for_quantized_weights_alone(model, tmp_path):
    load = (
        "from blockvid_cli.models.card import find_card\n"
        "from blockvid_cli.models.loading import load_denoiser, load_vae\n"
        "from blockvid_cli.models.devices import precision\n"
        f"card = find_card({str(model)!r})\n"
        "load_vae(card, 'cpu')\n"
        "load_denoiser(card, 'cpu', precision('{}', 'cpu'))"
    )
    assert "bitsandbytes" not in loaded_modules(load.replace("{}", "bf16"), str(tmp_path))
    assert "bitsandbytes" in loaded_modules(load.replace("{}", "int8"), str(tmp_path))


def test_every_row_names_classes_that_exist():
    from blockvid_cli.models.registry import import_class

    for row in FAMILIES.values():
        paths = (row.transformer, row.denoiser, row.vae, row.text_encoder)
        assert all(isinstance(import_class(path), type) for path in paths)
        assert all(find_card(name) for name in {*row.cards.values(), *row.generator_cards.values()})
    assert {find_card(name).family for name in bundled_models()} == set(FAMILIES)
