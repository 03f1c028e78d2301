"""Every published layout of weights is read, recognized and verified; a wrong file gets one sentence."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as some
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from blockvid_cli.commands.app import app
from blockvid_cli.errors import BlockvidError, MissingModelError, RefusedModelError, UsageError
from blockvid_cli.models.card import bundled_models, find_card
from blockvid_cli.models.checkpoint import convert
from blockvid_cli.models.devices import precision
from blockvid_cli.models.find import find_model
from blockvid_cli.models.hub import hub_files
from blockvid_cli.models.layouts import WAN_KEYS, strip_wrappers
from blockvid_cli.models.loading import load_denoiser, meta_transformer, verify_model
from blockvid_cli.models.registry import model_sizes
from tests import tiny_wan

FULL = precision("fp32", "cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    return {layout: tiny_wan.model(home / layout, layout) for layout in tiny_wan.LAYOUTS}


@pytest.fixture
def copy(models, tmp_path):
    def of(layout):
        return shutil.copytree(models[layout], tmp_path / layout)

    return of


def velocity(network) -> torch.Tensor:
    torch.manual_seed(9)
    x, context = torch.randn(1, 3, 16, 4, 8), torch.randn(1, 5, 32)
    from blockvid_cli.rollout.kv_cache.base import KVView

    out, _ = network(x, torch.tensor([0.7, 0.7, 0.7]), context, torch.arange(3.0), KVView())
    return out


def test_every_name_of_the_published_shapes_goes_there_and_back():
    for name in ("wan2.1-t2v-1.3b", "wan2.1-t2v-14b", "skyreels-v2-df-1.3b"):
        names = list(meta_transformer(find_card(name)).state_dict())
        originals = [WAN_KEYS.to_original(n) for n in names]
        assert [WAN_KEYS.to_diffusers(n) for n in originals] == names and len(set(originals)) == len(names)
        assert "blocks.0.self_attn.q.weight" in originals and "head.modulation" in originals
        assert not any("attn1" in n or "condition_embedder" in n for n in originals)


def test_the_tables_are_one_to_one():
    for table in (WAN_KEYS.outside, WAN_KEYS.inside):
        assert len(set(table.values())) == len(table)


@given(some.permutations(["model.", "_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module."]))
def test_wrappers_come_off_in_any_order(wrappers):
    assert strip_wrappers("".join(wrappers) + "blocks.3.ffn.0.bias") == "blocks.3.ffn.0.bias"


def test_published_shapes_have_the_published_numbers():
    small, large = (find_card(f"wan2.1-t2v-{size}") for size in ("1.3b", "14b"))
    assert model_sizes(small).transformer_params == 1_418_996_800 and len(meta_transformer(small).state_dict()) == 825
    assert model_sizes(large).transformer_params == 14_288_491_584 and len(meta_transformer(large).state_dict()) == 1095
    sky = find_card("skyreels-v2-df-1.3b")
    assert model_sizes(sky).transformer_params == 1_435_525_696 and len(meta_transformer(sky).state_dict()) == 830


def test_cards_name_a_home_and_a_licence():
    names = set(bundled_models())
    assert names >= {"wan2.1-t2v-1.3b", "wan2.1-t2v-14b", "skyreels-v2-df-1.3b", "self-forcing", "longlive"}
    assert names >= {"causal-forcing", "causvid", "storybook"}
    for name in names - {"storybook"}:
        card = find_card(name)
        assert all(part.repository for part in card.files) and card.licence and card.limits
        assert card.noncommercial == ("NC" in card.licence)


@pytest.mark.parametrize("layout", tiny_wan.LAYOUTS)
def test_every_layout_verifies_and_is_the_same_network(layout, models):
    card = find_model(str(models[layout]))
    found = {finding.part: finding.summary for finding in verify_model(card)}
    total = len(meta_transformer(card).state_dict())
    assert f"{total} of {total} tensors fit" in found["transformer"] and "unknown" not in found["transformer"]
    loaded, plain_one = (load_denoiser(c, "cpu", FULL) for c in (card, find_model(str(models["diffusers"]))))
    drawn, same = velocity(loaded), velocity(plain_one)
    if layout == "lora":
        assert found["lora"] == f"{len(tiny_wan.lora()) // 2} changes fit" and (drawn - same).abs().max() > 1e-3
    elif not layout.startswith("skyreels"):
        assert torch.allclose(drawn, same, atol=1e-6)
        here, there = (one.network.state_dict() for one in (loaded, plain_one))
        assert all(torch.equal(value, there[name]) for name, value in here.items())
    assert torch.isfinite(drawn).all()


def test_both_skyreels_layouts_are_one_network(models):
    drawn = [
        velocity(load_denoiser(find_model(str(models[n])), "cpu", FULL)) for n in ("skyreels", "skyreels-diffusers")
    ]
    assert torch.allclose(*drawn, atol=1e-6)


def test_a_lora_changes_weights_as_it_says(models):
    card = find_model(str(models["lora"]))
    loaded = load_denoiser(card, "cpu", FULL).network.state_dict()
    pairs, before = tiny_wan.lora(), tiny_wan.network().state_dict()
    name = "blocks.1.attn1.to_q.weight"
    a, b = (pairs[f"base_model.model.blocks.1.self_attn.q.lora_{half}.weight"] for half in "AB")
    assert torch.allclose(loaded[name], before[name] + b @ a, atol=1e-6)
    assert torch.equal(loaded["proj_out.weight"], before["proj_out.weight"])


def test_a_lora_for_another_network_is_refused(copy):
    folder = copy("lora")
    torch.save({"generator_lora": {k: v.repeat(2, 2) for k, v in tiny_wan.lora().items()}}, folder / "lora.pt")
    with pytest.raises(MissingModelError, match=r"0 of .* changes fit"):
        load_denoiser(find_model(str(folder)), "cpu", FULL)


def test_a_diffusers_folder_needs_no_card(copy):
    folder = copy("sharded")
    (folder / "card.yaml").unlink()
    card = find_model(str(folder))
    assert card.transformer.config["num_layers"] == 2 and card.vae.config["base_dim"] == 8
    assert card.text.repository is None and card.recipe["solver"] == "unipc"
    total = len(meta_transformer(card).state_dict())
    assert f"{total} of {total}" in verify_model(card)[0].summary and "shards" in verify_model(card)[0].summary


def test_a_file_of_unknown_sizes_asks_for_a_card(models):
    with pytest.raises(MissingModelError, match=r"card\.yaml"):
        find_model(str(models["container"] / "model.pt"))


def test_a_file_takes_the_card_of_its_family(tmp_path):
    for layout, family in (("generator", "self-forcing"), ("", "wan2.1-t2v-1.3b")):
        tensors = {"patch_embedding.weight": torch.zeros(1536, 1), "blocks.0.self_attn.q.weight": torch.zeros(1)}
        file = tmp_path / f"night{layout}.pt"
        torch.save({layout: tensors} if layout else tensors, file)
        card = find_model(str(file))
        assert (
            card.recipe == find_card(family).recipe and card.name == file.stem and card.transformer.repository is None
        )
    (tmp_path / "original").mkdir()
    save_file(
        {"patch_embedding.weight": torch.zeros(1536, 1), "head.head.bias": torch.zeros(1)},
        tmp_path / "original" / "diffusion_pytorch_model.safetensors",
    )
    (tmp_path / "original" / "Wan2.1_VAE.pth").write_bytes(b"")
    card = find_model(str(tmp_path / "original"))
    assert card.recipe == find_card("wan2.1-t2v-1.3b").recipe and card.transformer.file == "original"


# What may be wrong with a file; each a function of the folder, and words of the sentence.


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def scrambled(folder):
    (folder / "model.safetensors").write_bytes(b"\xff" * 4000)


def cut_pickle(folder):
    file = folder / "model.pt"
    file.write_bytes(file.read_bytes()[:3000])


class Evil:
    def __reduce__(self):
        return (print, ("this must not run",))


def malicious(folder):
    torch.save({"generator": {"w": torch.ones(1), "x": Evil()}}, folder / "model.pt")


def malicious_old_pickle(folder):
    (folder / "model.pt").write_bytes(pickle.dumps({"generator": Evil()}))


def other_shape(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["head.head.weight"] = torch.zeros(3, 3)
    save_file(tensors, folder / "model.safetensors")


def fewer_tensors(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "blocks.1" not in k}, folder / "model.safetensors")


def not_finite(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["head.head.weight"][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors")


def absent(folder):
    (folder / "model.safetensors").unlink()


def absent_shard(folder):
    (folder / "transformer" / sorted(set(tiny_wan.index_of(folder).values()))[1]).unlink()


def shard_outside(folder):
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    file.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))


def broken_index(folder):
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text("{")


def wrong_hash(folder):
    card = folder / "card.yaml"
    card.write_text(
        card.read_text().replace("file: model.safetensors", f"file: model.safetensors\n  sha256: {'ab' * 32}")
    )


def no_codec(folder):
    shutil.rmtree(folder / "vae")


WRONG = [
    (cut, "original", "damaged or not whole"),
    (scrambled, "original", "damaged or not whole"),
    (cut_pickle, "container", "damaged or not whole"),
    (malicious, "container", "could run code"),
    (malicious_old_pickle, "container", "could run code|damaged"),
    (other_shape, "original", "1 of another shape .proj_out.weight"),
    (fewer_tensors, "original", "absent .blocks.1"),
    (not_finite, "original", "proj_out.weight holds numbers that are not finite"),
    (absent, "original", "no weights at|lacks"),
    (absent_shard, "sharded", "shards are absent"),
    (shard_outside, "sharded", "shards are absent"),
    (broken_index, "sharded", "index of shards cannot be read"),
    (wrong_hash, "original", "hash is wrong"),
    (no_codec, "original", "vae"),
]


@pytest.mark.parametrize(("spoil", "layout", "words"), WRONG, ids=[w[0].__name__ for w in WRONG])
def test_a_bad_file_gets_one_sentence_and_exit_3(spoil, layout, words, copy, capfd):
    folder = copy(layout)
    spoil(folder)
    with pytest.raises((MissingModelError, RefusedModelError), match=words) as error:
        verify_model(find_model(str(folder)))
    assert "\n" not in str(error.value) and error.value.exit_code == 3
    assert isinstance(error.value, RefusedModelError) == (spoil in (malicious, malicious_old_pickle))
    assert "must not run" not in capfd.readouterr().out


def test_a_pickle_of_the_old_format_is_read(models, tmp_path):
    file = tmp_path / "old.pt"
    want = tiny_wan.weights(tiny_wan.network(), original=True)
    torch.save({"generator_ema": None, "generator": want}, file, _use_new_zipfile_serialization=False)
    from blockvid_cli.models.checkpoint import read_checkpoint

    found = read_checkpoint(file)
    assert "'generator'" in found.layout and len(found.tensors) == len(want)


def test_a_picture_to_video_folder_is_refused(copy):
    folder = copy("diffusers")
    (folder / "card.yaml").unlink()
    config = folder / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"in_channels": 16', '"in_channels": 36'))
    with pytest.raises(MissingModelError, match="36 channels"):
        find_model(str(folder))
    text = config.read_text().replace('"in_channels": 36', '"in_channels": 16')
    config.write_text(text.replace('"num_layers": 2', '"num_layers": "two"'))
    with pytest.raises(BlockvidError, match="config"):
        meta_transformer(find_model(str(folder)))


def test_converting_there_and_back_gives_the_same_weights(models, tmp_path):
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    assert convert(models["container"] / "model.pt", there, "diffusers", "as-stored") == convert(
        there, back, "original", "as-stored"
    )
    want = tiny_wan.weights(tiny_wan.network())
    assert all(torch.equal(value, want[name]) for name, value in load_file(there).items())
    assert all(torch.equal(value, want[WAN_KEYS.to_diffusers(name)]) for name, value in load_file(back).items())
    with pytest.raises(UsageError, match="--force"):
        convert(there, back, "original", "as-stored")
    convert(there, back, "original", "bf16", force=True)
    assert all(value.dtype == torch.bfloat16 for value in load_file(back).values())
    from blockvid_cli.models.checkpoint import read_checkpoint

    assert "once original Wan names in 'generator_ema'" in read_checkpoint(there).layout  # its family is not forgotten


def test_a_model_that_is_not_here_says_how_it_is_had():
    with pytest.raises(MissingModelError, match="blockvid models pull self-forcing"):
        load_denoiser(find_card("self-forcing"), "cpu", FULL)
    assert [want.repository for want in hub_files(find_card("longlive"))] == [
        "Efficient-Large-Model/LongLive-1.3B",
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
    ]


def test_commands_list_show_and_verify(models):
    run = CliRunner()
    listed = json.loads(run.invoke(app, ["models", "list", "--json"]).stdout)
    local = {row["model"]: row["local"] for row in listed}
    assert local["storybook"] and not local["causvid"]
    shown = json.loads(run.invoke(app, ["models", "show", "longlive", "--json"]).stdout)
    assert shown["noncommercial"] and shown["weights"] == 1_418_996_800
    told = run.invoke(app, ["models", "verify", str(models["lora"])])
    assert told.exit_code == 0 and "changes fit" in told.stdout
    assert run.invoke(app, ["models", "path", str(models["original"])]).stdout.count("\n") == 4


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["pull", "storybook"], "nothing to pull"),
        (["rm", "storybook"], "came with blockvid"),
        (["pull", "self-forcing", "--yes"], "cannot be pulled"),
        (["path", "causvid"], "is not on this machine"),
        (["show", "self-forging"], "self-forcing"),
    ],
)
def test_commands_that_cannot_say_why(command, words):
    with pytest.raises(BlockvidError, match=words):
        CliRunner().invoke(app, ["models", *command], catch_exceptions=False)


def test_a_non_commercial_licence_is_asked_for_once(story, tmp_path, monkeypatch):
    from blockvid_cli.job import RenderRequest, prepare
    from blockvid_cli.models import hub
    from blockvid_cli.render import render

    monkeypatch.setenv("BLOCKVID_HOME", str(tmp_path / "home"))
    job = prepare(RenderRequest(story, model="causvid"))  # a plan and an estimate need no agreement
    with pytest.raises(UsageError, match="non-commercial"):
        render(job)
    hub.accept_licence(find_card("causvid"))
    with pytest.raises(MissingModelError, match="blockvid models pull causvid"):
        render(job)
    assert not story.with_suffix(".blockvid").exists()  # a render that cannot begin leaves nothing behind


def test_a_fit_counts_and_names():
    from blockvid_cli.models.loading import KeyMatch

    fit = KeyMatch(("a", "b"), ("c",), (), ("d", "e"))
    assert str(fit) == "2 of 3 tensors fit, 1 absent (c), 2 unknown (d, ...)" and not fit.complete
    assert replace(fit, absent=()).complete
