"""The vbench tier on small random checkpoints in the layouts that are published, and backends that users installed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    ViTConfig,
    ViTModel,
)

from blockvid_cli.errors import MissingModelError, UsageError
from blockvid_cli.evaluation.backends.backbones import Clip, Dino, Dinov2, Laion, Raft, center_crop, resize, to_tensor
from blockvid_cli.evaluation.backends.checkpoints import (
    CHECKPOINTS,
    CLIP_BASE,
    DINO,
    LAION,
    RAFT,
    locate,
    pull,
    short_hash,
)
from blockvid_cli.evaluation.backends.installed import installed_backend
from blockvid_cli.evaluation.tiers import vbench_backends
from blockvid_cli.models.hub import sha256
from blockvid_cli.video.reader import Frame

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CLIP = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = [*LETTERS, *(letter + "</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
SIZES = [(240, 416), (240, 416), (300, 200), (224, 224), (240, 416)]

NAMES = ("subject_consistency", "background_consistency", "aesthetic_quality", "dynamic_degree", "clips")


@pytest.fixture(scope="module")
def networks():
    """Networks of the published kinds with random weights, by the folders of their checkpoints."""
    torch.manual_seed(0)
    made = {
        "dino-vitb16": ViTModel(ViTConfig(**SMALL), add_pooling_layer=False),
        "dinov2-base": Dinov2Model(Dinov2Config(**SMALL, image_size=518, patch_size=14)),
    }
    for name, patch, width in (("clip-vit-base-patch32", 32, 48), ("clip-vit-large-patch14", 14, 768)):
        text = {**SMALL, "vocab_size": len(WORDS), "projection_dim": width}
        text |= {"bos_token_id": 0, "eos_token_id": 2}  # the published ones say 2 too, and take the highest
        vision = {**SMALL, "patch_size": patch, "projection_dim": width}
        made[name] = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))
    return {name: network.eval() for name, network in made.items()}


@pytest.fixture(scope="module")
def tokens():
    return CLIPTokenizer(vocab={word: number for number, word in enumerate(WORDS)}, merges=[])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, networks, tokens):
    """A folder of their checkpoints, laid out as ``--weights-dir`` asks."""
    home = tmp_path_factory.mktemp("checkpoints")
    for name, network in networks.items():
        network.save_pretrained(home / name)
    weights = home / "dino-vitb16" / "model.safetensors"  # its authors publish a pickle, with the same names
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    tokens.save_pretrained(home / "clip-vit-base-patch32")
    torch.save(torch.nn.Linear(768, 1).state_dict(), home / LAION.name)
    return home


@pytest.fixture
def trusted(folder, monkeypatch):
    """The folder, whose weights pass for the published ones."""

    def of(checkpoint):
        return replace(checkpoint, sha256=sha256(checkpoint.required_files(folder / checkpoint.name)[0]))

    for kind, names in (
        (Dino, ["checkpoint"]),
        (Dinov2, ["checkpoint"]),
        (Clip, ["checkpoint"]),
        (Laion, ["clip", "head"]),
    ):
        for name in names:
            monkeypatch.setattr(kind, name, of(getattr(kind, name)))
    return folder


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine without checkpoints, which may download."""
    import huggingface_hub.constants

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return tmp_path


def shots(sizes=SIZES):
    noise = np.random.default_rng(0)
    return [Frame(number, noise.integers(0, 256, (*size, 3), np.uint8)) for number, size in enumerate(sizes)]


def shown(frame, size, mode, colours):
    """A picture as a network sees it, worked out step by step."""
    picture = torch.tensor(frame.rgb).permute(2, 0, 1)[None].to(torch.float32)
    picture = functional.interpolate(picture, size, mode=mode, align_corners=False)[0]
    mean, deviation = colours
    return torch.stack([(picture[c] / 255 - mean[c]) / deviation[c] for c in range(3)])[None]


def test_dino_is_the_class_token_of_the_whole_picture(trusted, networks):
    sizes = {(240, 416): (224, 388), (300, 200): (336, 224), (224, 224): (224, 224)}
    expected = []
    with torch.no_grad():
        for frame in shots():
            picture = shown(frame, sizes[frame.rgb.shape[:2]], "bilinear", IMAGENET)
            expected.append(networks["dino-vitb16"](picture, interpolate_pos_encoding=True).last_hidden_state[0, 0])
    found = Dino(trusted).encode(shots())
    assert found.shape == (5, 32) and found.dtype == np.float32
    np.testing.assert_allclose(found, torch.stack(expected), atol=2e-5)


def test_dinov2_and_clip_see_the_square_in_the_middle(trusted, networks):
    frame = shots([(240, 416)])[0]
    with torch.no_grad():
        picture = shown(frame, (256, 443), "bicubic", IMAGENET)[..., 16:240, 110:334]  # (443 - 224) / 2 = 109.5 -> 110
        looks = networks["dinov2-base"](picture).last_hidden_state[:, 0]
        np.testing.assert_allclose(Dinov2(trusted).encode([frame]), looks, atol=2e-5)
        picture = shown(frame, (224, 388), "bicubic", CLIP)[..., 82:306]
        network = networks["clip-vit-base-patch32"]
        looks = network.visual_projection(network.vision_model(picture).pooler_output)
        np.testing.assert_allclose(Clip(trusted).encode([frame]), looks, atol=2e-5)


def test_captions_are_read_up_to_the_end_and_no_further_than_77_tokens(trusted, networks, tokens):
    clip, long = Clip(trusted), "a swan on the water " * 30
    found = clip.encode_text(["a swan", "two balloons rise", long])
    network = networks["clip-vit-base-patch32"]
    for caption, look in zip(["a swan", "two balloons rise", long], found, strict=True):
        ids = tokens(caption).input_ids
        ids = torch.tensor([ids if len(ids) <= 77 else [*ids[:76], ids[-1]]])
        with torch.no_grad():
            last = network.text_model(ids).last_hidden_state[:, -1]
            np.testing.assert_allclose(look, network.text_projection(last)[0], atol=2e-5)


def test_laion_rates_the_direction_of_a_look(trusted):
    frames = shots([(240, 416), (300, 200)])
    state = torch.load(trusted / LAION.name, weights_only=True)
    looks = torch.tensor(Laion(trusted)._clip.encode(frames))
    expected = (looks / looks.norm(dim=1, keepdim=True)) @ state["weight"][0] + state["bias"]
    found = Laion(trusted).score(frames)
    assert found.shape == (2,) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected / 10, atol=1e-6)


@pytest.mark.parametrize("ask", [lambda f: Dino(f).encode, lambda f: Clip(f).encode, lambda f: Laion(f).score])
def test_frames_of_a_batch_do_not_know_of_each_other(trusted, ask):
    calls = ask(trusted)
    np.testing.assert_allclose(calls(shots()), np.concatenate([calls([frame]) for frame in shots()]), atol=2e-5)


def test_pictures_are_resized_and_cut_as_torchvision_does():
    transforms = pytest.importorskip("torchvision.transforms.functional", reason="compared with torchvision")
    for size in [(240, 416), (417, 241), (480, 832), (225, 224)]:
        picture = to_tensor(shots([size]))
        for mode in ("bilinear", "bicubic"):
            how = transforms.InterpolationMode(mode)
            expected = transforms.center_crop(transforms.resize(picture, 224, how, antialias=False), 224)
            torch.testing.assert_close(center_crop(resize(picture, 224, mode), 224), expected)


def test_the_tier_answers_four_measures_clips_and_captions(trusted):
    found = vbench_backends(trusted, names=[name for name in (*NAMES, "texts") if name != "dynamic_degree"])
    assert set(found) == {"subject_consistency", "background_consistency", "aesthetic_quality", "clips", "texts"}
    assert found["texts"] is found["background_consistency"]
    assert all(backend.suffix == "" for backend in found.values())
    known = short_hash(trusted / "dino-vitb16" / "pytorch_model.bin")
    assert found["subject_consistency"].name == f"dino-vitb16 {known}" and len(known) == 12


def test_raft_follows_frames_of_any_size(tmp_path, monkeypatch):
    optical_flow = pytest.importorskip("torchvision.models.optical_flow", reason="RAFT is torchvision's")
    torch.manual_seed(0)
    network = optical_flow.raft_large(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / RAFT.name)
    monkeypatch.setattr(Raft, "checkpoint", replace(RAFT, sha256=sha256(tmp_path / RAFT.name)))
    raft, (a, b) = Raft(tmp_path), shots([(134, 150)] * 2)
    both = [torch.tensor(frame.rgb).permute(2, 0, 1)[None] / 127.5 - 1 for frame in (a, b)]
    with torch.no_grad():
        wide = [functional.pad(picture, (1, 1, 1, 1), mode="replicate") for picture in both]
        expected = network(*wide, num_flow_updates=20)[-1][0, :, 1:-1, 1:-1].permute(1, 2, 0)
    found = raft.flow(a, b)
    assert found.shape == (134, 150, 2) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert raft.flow(*shots([(48, 64)] * 2)).shape == (48, 64, 2)


@pytest.mark.parametrize(
    ("fails", "said"),
    [
        (ImportError("no"), r"pip install \"blockvid\[eval\]\""),
        (RuntimeError("operator torchvision::nms does not exist"), "built for another torch"),
    ],
)
def test_without_its_torchvision_raft_says_so(fails, said, monkeypatch):
    class Refusing:
        def find_spec(self, name, path=None, target=None):
            if name.startswith("torchvision"):
                raise fails

    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Refusing(), *sys.meta_path])
    with pytest.raises(MissingModelError, match=said):
        Raft()


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda checkpoint: checkpoint.name)
def test_what_is_missing_is_said_with_both_remedies(checkpoint, bare):
    with pytest.raises(MissingModelError) as said:
        locate(checkpoint, bare)
    sentence = str(said.value)
    assert said.value.exit_code == 3 and sentence.count("\n") == 0
    for part in (
        checkpoint.name,
        checkpoint.licence,
        checkpoint.source,
        "--pull",
        f"--weights-dir DIR' finds it as DIR/{checkpoint.name}",
    ):
        assert part in sentence
    assert ("21.1 MB" in sentence) == (checkpoint is RAFT) and ("4.07 kB" in sentence) == (checkpoint is LAION)


def test_the_manifest_is_whole():
    for checkpoint in CHECKPOINTS:
        assert set(checkpoint.sha256) <= set("0123456789abcdef") and len(checkpoint.sha256) in (8, 64)
        assert checkpoint.is_url or (len(checkpoint.revision) == 40 and checkpoint.files[1] == "config.json")
    assert RAFT.name.endswith(f"{RAFT.sha256}.pth") and LAION.bytes == 4071


def test_other_weights_of_the_name_are_refused(folder, bare):
    for checkpoint in (DINO, LAION, CLIP_BASE, replace(LAION, sha256=None, bytes=4000)):
        with pytest.raises(MissingModelError, match=r"not the checkpoint .* as it was published"):
            locate(checkpoint, folder)
    (bare / "dino-vitb16").mkdir()
    with pytest.raises(MissingModelError, match=r"not whole: .*pytorch_model.bin is absent"):
        locate(DINO, bare)
    with pytest.raises(UsageError, match="there is no folder"):
        locate(DINO, bare / "nowhere")


@pytest.mark.parametrize("found", [b"", b"scrambled" * 99, b"PK\x03\x04" + b"x" * 99, b"\x80\x02cos\nsystem\n."])
@pytest.mark.parametrize("kind", [Dino, Clip, Laion])
def test_scrambled_weights_end_in_a_sentence(found, kind, folder, tmp_path, monkeypatch):
    name = "head" if kind is Laion else "checkpoint"
    checkpoint = getattr(kind, name)
    home = tmp_path / checkpoint.name
    if checkpoint.is_url:
        (tmp_path / "clip-vit-large-patch14").symlink_to(folder / "clip-vit-large-patch14")
        monkeypatch.setattr(
            kind,
            "clip",
            replace(kind.clip, sha256=None, bytes=(folder / "clip-vit-large-patch14/model.safetensors").stat().st_size),
        )
        home.write_bytes(found)
    else:
        home.mkdir()
        (home / "config.json").write_text((folder / checkpoint.name / "config.json").read_text())
        (home / checkpoint.files[0]).write_bytes(found)
    monkeypatch.setattr(kind, name, replace(checkpoint, sha256=None, bytes=len(found)))
    calls = kind(tmp_path)
    with pytest.raises(MissingModelError, match="damaged, or of another kind"):
        (calls.score if kind is Laion else calls.encode)(shots([(64, 64)]))


def test_weights_of_another_network_are_refused(folder, tmp_path, monkeypatch):
    (tmp_path / "dinov2-base").mkdir()
    (tmp_path / "dinov2-base" / "config.json").write_text((folder / "dinov2-base" / "config.json").read_text())
    other = folder / "clip-vit-base-patch32" / "model.safetensors"
    (tmp_path / "dinov2-base" / "model.safetensors").write_bytes(other.read_bytes())
    monkeypatch.setattr(Dinov2, "checkpoint", replace(Dinov2.checkpoint, sha256=sha256(other)))
    with pytest.raises(MissingModelError, match=r"lacks \d+ tensors"):
        Dinov2(tmp_path).encode(shots([(64, 64)]))


def test_the_hubs_cache_is_looked_in_and_its_hashes_are_believed(bare, folder):
    home = bare / "hub" / "models--facebook--dino-vitb16"
    snapshot, blobs = home / "snapshots" / DINO.revision, home / "blobs"
    snapshot.mkdir(parents=True), blobs.mkdir()
    (blobs / DINO.sha256).write_bytes(b"weights")
    (snapshot / "pytorch_model.bin").symlink_to(blobs / DINO.sha256)
    with pytest.raises(MissingModelError, match="not on this machine"):
        locate(DINO)
    (snapshot / "config.json").write_text("{}")
    assert locate(DINO) == snapshot
    assert DINO.label(snapshot) == "dino-vitb16 a064e36c6728"


def test_a_file_is_pulled_whole_or_not_at_all(bare):
    source = bare / "there" / "head.pth"
    source.parent.mkdir()
    source.write_bytes(b"four thousand bytes")
    checkpoint = replace(LAION, source=source.as_uri(), sha256=sha256(source)[:8])
    notes = []
    pull([checkpoint], notes.append)
    pull([checkpoint], notes.append)
    assert len(notes) == 1 and "4.07 kB, MIT" in notes[0]
    kept = bare / "torch" / "hub" / "checkpoints" / "head.pth"
    assert locate(checkpoint) == kept and kept.read_bytes() == source.read_bytes()
    kept.unlink()
    with pytest.raises(MissingModelError, match=r"is not .* as it was published"):
        pull([replace(checkpoint, sha256="0" * 64)], notes.append)
    with pytest.raises(MissingModelError, match="cannot be pulled: its source cannot be reached"):
        pull([replace(checkpoint, source=(bare / "absent.pth").as_uri())], notes.append)
    assert not list(kept.parent.iterdir())


def test_a_repository_is_pulled_by_its_files(bare, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    calls, snapshot = [], bare / "snapshot"

    def download(repository, *, revision, allow_patterns, local_files_only):
        if local_files_only and not snapshot.exists():
            raise LocalEntryNotFoundError("not here")
        if not local_files_only:
            calls.append((repository, revision, allow_patterns))
            snapshot.mkdir()
            (snapshot / "pytorch_model.bin").write_bytes(b"weights")
            (snapshot / "config.json").write_text("{}")
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    checkpoint = replace(DINO, sha256=None, bytes=7)
    pull([checkpoint, checkpoint], lambda _: None)
    assert calls == [("facebook/dino-vitb16", DINO.revision, ["pytorch_model.bin", "config.json"])]

    def failing(*_, **options):
        raise LocalEntryNotFoundError("no") if options["local_files_only"] else ConnectionError("no way")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", failing)
    with pytest.raises(MissingModelError, match="cannot be pulled: its source cannot be reached"):
        pull([DINO], lambda _: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MissingModelError, match="HF_HUB_OFFLINE is set"):
        pull([DINO], lambda _: None)


@pytest.fixture
def pyiqa(monkeypatch):
    """A pyiqa whose metrics tell the size and the brightness of what they are shown."""
    kinds = {
        "musiq-spaq": ("~0, ~100", False),
        "qalign": ("1, 5", False),
        "niqe": ("~0, ~100", True),
        "vif": ("0, ~", False),
    }
    calls = []

    def metric(picture, **options):
        calls.append((tuple(picture.shape), options))
        return picture.mean() * 4 + 1

    def create_metric(name, device):
        made = SimpleNamespace(score_range=kinds[name][0], lower_better=kinds[name][1])
        return type("Metric", (SimpleNamespace,), {"__call__": lambda self, *a, **k: metric(*a, **k)})(**vars(made))

    module = ModuleType("pyiqa")
    module.create_metric, module.list_models = create_metric, lambda mode=None: list(kinds)
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    return calls


def test_metrics_of_pyiqa_are_brought_to_nought_and_one(pyiqa):
    grey = [Frame(0, np.full((300, 1000, 3), 51, np.uint8)), Frame(1, np.full((20, 30, 3), 255, np.uint8))]
    musiq = installed_backend("imaging_quality", "pyiqa:musiq-spaq")
    np.testing.assert_allclose(musiq.score(grey), [0.018, 0.05], rtol=1e-5)
    assert [shape for shape, _ in pyiqa] == [(1, 3, 153, 512), (1, 3, 20, 30)]
    assert (musiq.suffix, musiq.name) == ("", "pyiqa musiq-spaq")
    qalign = installed_backend("aesthetic_quality", "pyiqa:qalign")
    np.testing.assert_allclose(qalign.score(grey), [0.2, 1], rtol=1e-5)
    assert pyiqa[-1] == ((1, 3, 20, 30), {"task_": "aesthetic"}) and qalign.suffix == "_qalign"
    niqe = installed_backend("imaging_quality", "pyiqa:niqe")
    np.testing.assert_allclose(niqe.score(grey), [0.982, 0.95], rtol=1e-5)
    assert pyiqa[-1] == ((1, 3, 20, 30), {}) and niqe.suffix == "_niqe"
    assert installed_backend("aesthetic_quality", "pyiqa:musiq-spaq").suffix == "_musiq-spaq"


def test_a_users_own_backend_is_found_by_module_and_name(tmp_path, monkeypatch):
    (tmp_path / "my_backends.py").write_text(
        "class Amt:\n"
        "    name = 'AMT-S'\n"
        "    suffix = ''\n"
        "    def interpolate(self, left, right):\n"
        "        return left.rgb\n"
        "class Plain:\n"
        "    def score(self, frames):\n"
        "        return [1.0] * len(frames)\n"
        "plain = Plain()\n"
        "class Asks:\n"
        "    def __init__(self, path):\n"
        "        pass\n"
    )
    (tmp_path / "broken_backends.py").write_text("import nothing_of_that_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    amt = installed_backend("motion_smoothness", "my_backends:Amt")
    a, b = shots([(8, 8)] * 2)
    assert (amt.name, amt.suffix) == ("AMT-S", "") and (amt.interpolate(a, b) == a.rgb).all()
    plain = installed_backend("imaging_quality", "my_backends:plain")
    assert (plain.name, plain.suffix, plain.score([a, b])) == ("my_backends:plain", "_custom", [1.0, 1.0])
    for measure, spec, said in [
        ("motion_smoothness", "my_backends:Plain", "has no method 'interpolate'"),
        ("imaging_quality", "my_backends:Absent", "the module has no 'Absent'"),
        ("imaging_quality", "no_such_module:Judge", "cannot be imported"),
        ("imaging_quality", ".relative:Judge", "cannot be imported"),
        ("imaging_quality", "broken_backends:Judge", "nothing_of_that_name"),
        ("imaging_quality", "my_backends:Asks", "without arguments"),
        ("imaging_qualities", "my_backends:plain", "Did you mean 'imaging_quality'"),
        ("imaging_quality", "my_backends", "names no backend"),
    ]:
        with pytest.raises(UsageError) as error:
            installed_backend(measure, spec)
        assert said in str(error.value) and "\n" not in str(error.value)


def test_what_pyiqa_cannot_do_is_said(pyiqa, monkeypatch):
    for measure, metric, said in [
        ("imaging_quality", "musiq-spaqs", "Did you mean 'musiq-spaq'"),
        ("imaging_quality", "vif", "no scale with two ends"),
        ("dynamic_degree", "musiq-spaq", "it has no 'flow'"),
    ]:
        with pytest.raises(UsageError, match=said):
            installed_backend(measure, f"pyiqa:{metric}")
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(UsageError, match=r"pip install pyiqa.*PolyForm-Noncommercial"):
        installed_backend("imaging_quality", "pyiqa:musiq-spaq")


def test_manifest_and_users_backends_need_no_torch():
    code = (
        "import sys, json; from blockvid_cli.evaluation.backends import checkpoints, installed;"
        "print(json.dumps([m for m in ('torch', 'transformers', 'torchvision') if m in sys.modules]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == []
