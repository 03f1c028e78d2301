"""Cards, configurations and weights that others wrote: names that are paths, numbers without end, headers that lie."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from blockvid_cli.errors import BlockvidError, MissingModelError, RefusedModelError, UsageError
from blockvid_cli.models import hub
from blockvid_cli.models.card import card_name, find_card
from blockvid_cli.models.checkpoint import convert, read_checkpoint, read_lora, weight_files
from blockvid_cli.models.find import find_model
from blockvid_cli.models.loading import load_text_encoder, load_vae, verify_model
from blockvid_cli.models.registry import model_sizes
from blockvid_cli.models.sentence_encoder import sentence_model
from blockvid_cli.storybook.edition import read_edition
from tests import fuzzing, tiny_wan


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_wan.model(tmp_path_factory.mktemp("tiny"), "original")


@pytest.fixture
def model(tiny, tmp_path):
    """A copy of a small model, and what changes its card: dotted keys and values."""
    folder = shutil.copytree(tiny, tmp_path / "model")

    def change(**changes: object) -> Path:
        card = yaml.safe_load((folder / "card.yaml").read_text())
        for path, value in changes.items():
            *parents, last = path.split("__")
            part = card
            for name in parents:
                part = part[name]
            part[last] = value
        (folder / "card.yaml").write_text(yaml.safe_dump(card))
        return folder

    return change


UP = "../../../somewhere"


@pytest.mark.parametrize(
    "name", [UP, "/etc/passwd", "a/b", ".hidden", "", "a\nb", "a\x1b[2J", "x" * 200, "a b", "..", 7]
)
def test_a_name_of_a_card_is_a_name(model, name, tmp_path, monkeypatch):
    monkeypatch.setenv("BLOCKVID_HOME", str(tmp_path / "home" / "deep" / "er"))
    with pytest.raises(MissingModelError, match="'name'"):
        hub.accept_licence(find_card(str(model(name=name))))
    assert not list(tmp_path.rglob("somewhere")) and not (tmp_path / "home").exists()


@pytest.mark.parametrize("key", ["transformer__file", "vae__file", "text__file", "text__tokenizer", "edition", "probe"])
@pytest.mark.parametrize("file", [UP, "a/../../b", "/etc/passwd", "..", "*", "a\\..\\b", "a\x00", "a" * 3000])
def test_a_file_of_a_card_lies_below_it(model, key, file):
    with pytest.raises(MissingModelError, match=key.replace("__", ".")):
        find_card(str(model(**{key: file})))


@pytest.mark.parametrize(
    ("key", "text"),
    [("repository", UP), ("repository", "a/b/c"), ("repository", "/etc"), ("revision", UP), ("revision", "/tmp/x")],
)
def test_repositories_and_revisions_are_names_of_the_hub(model, key, text):
    with pytest.raises(MissingModelError, match=f"transformer.{key}"):
        find_card(str(model(**{f"transformer__{key}": text})))


def test_a_lora_lies_below_the_card(model):
    with pytest.raises(MissingModelError, match=r"transformer.lora.file"):
        find_card(str(model(transformer__lora={"file": UP})))


def test_a_file_without_a_card_gets_a_name(tmp_path):
    assert [card_name(name) for name in ("night", "a b", "..", "", "-x", "a..b", "ü/../x")] == [
        *("night", "a-b", "model", "model", "x", "a-b", "x")
    ]


WILD = [
    ("transformer__config__num_layers", 10**9),
    ("transformer__config__num_layers", -1),
    ("transformer__config__num_layers", 0),
    ("transformer__config__num_layers", "two"),
    ("transformer__config__num_layers", None),
    ("transformer__config__num_attention_heads", 0),
    ("transformer__config__ffn_dim", 10**30),
    ("transformer__config__ffn_dim", [1, 2]),
    ("transformer__config__patch_size", [0, 0, 0]),
    ("transformer__config__patch_size", 7),
    ("transformer__config__out_channels", 17),
    ("transformer__config__eps", "small"),
    ("vae__config__num_res_blocks", 10**9),
    ("vae__config__dim_mult", [10**9]),
    ("vae__config__dim_mult", []),
    ("vae__config__base_dim", 10**7),
    ("vae__config__base_dim", 0),
    ("vae__config__z_dim", 3),
    ("vae__config__latents_mean", [0.0]),
    ("latent__time", 0),
    ("latent__space", 10**9),
    ("latent__channels", 17),
    ("patch", [0, 0, 0]),
    ("patch", [1, 2]),
    ("patch", [1, 3, 2]),
    ("fps", float("inf")),
    ("fps", float("nan")),
    ("fps", 10**40),
    ("block", 10**9),
    ("size", "0x0"),
    ("size", [10**9, 10**9]),
    ("family", "nobody"),
    ("family", "../x"),
    ("licence", {"a": "b"}),
    ("text__tokens", -4),
    ("trained_sizes", ["8x8"] * 1000),
]


@pytest.mark.parametrize(("key", "value"), WILD, ids=[f"{key}-{value}"[:60] for key, value in WILD])
def test_a_card_with_wild_values_ends_in_a_sentence(model, key, value):
    folder = str(model(**{key: value}))
    with fuzzing.time_limit(cpu=10), pytest.raises(MissingModelError) as error:
        card = find_model(folder)
        model_sizes(card)
        verify_model(card)
        load_vae(card, "cpu")
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert key.rpartition("__")[2].partition("[")[0] in str(error.value) or "config" in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "name: 2024-01-01",
        "name: 1:1:1:1",
        "[" * 100_000,
        "a: &a [*a]",
        "name: !!python/object/apply:os.system [true]",
        "a: b: c",
        "- 1",
        "",
        "\x00",
        "name: " + "9" * 5000,
        "a: &b " + "[a,a,a,a,a,a,a,a,a]\n" + "".join(f"b{i}: &b [*b,*b,*b,*b,*b,*b,*b,*b]\n" for i in range(40)),
        "summary: " + "a" * 2_000_000,
    ],
)
def test_a_card_that_is_no_card_ends_in_a_sentence(tmp_path, text):
    (tmp_path / "card.yaml").write_text(text)
    with fuzzing.time_limit(cpu=5), pytest.raises(MissingModelError, match=r"card\.yaml") as error:
        find_model(str(tmp_path))
    assert len(str(error.value)) < 500


def test_a_pipe_is_no_card(tmp_path):
    os.mkfifo(tmp_path / "card.yaml")
    with fuzzing.time_limit(cpu=5, wall=20), pytest.raises(MissingModelError):
        find_model(str(tmp_path))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"num_layers": 1e999}', '{"a": NaN}', "[]", "", '{"num_layers": 1e9}']
)
def test_a_configuration_of_a_folder_is_bounded(tmp_path, text):
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(text)
    with pytest.raises(MissingModelError, match=r"config\.json"):
        find_model(str(tmp_path))


@pytest.mark.parametrize("change", [{"num_layers": 10**9}, {"vocab_size": 10**12}, {"num_heads": "a"}, {"d_ff": -4}])
def test_a_text_encoder_with_wild_sizes_ends_in_a_sentence(model, change, tmp_path, monkeypatch):
    monkeypatch.setenv("BLOCKVID_HOME", str(tmp_path / "home"))
    folder = model()
    file = folder / "text_encoder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with fuzzing.time_limit(cpu=20), pytest.raises(MissingModelError, match="text_encoder"):
        load_text_encoder(find_model(str(folder)))(["a swan"])


def header(values: object, length: int | None = None, rest: bytes = b"") -> bytes:
    """A safetensors file with this header."""
    text = values if isinstance(values, bytes) else json.dumps(values).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + rest


def tensor(shape: list[int], start: int = 0, end: int = 4, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HEADERS = {
    "empty": b"",
    "huge length": header({}, 2**63),
    "long header": header({}, 10**9, bytes(100)),
    "no json": header(b"{"),
    "deep": header(b"[" * 100_000),
    "huge shape": header({"a": tensor([2**40])}, rest=bytes(4)),
    "overflow": header({"a": tensor([2**33, 2**33])}, rest=bytes(4)),
    "beyond": header({"a": tensor([1], 0, 2**40)}, rest=bytes(4)),
    "backwards": header({"a": tensor([1], 4, 0)}, rest=bytes(4)),
    "overlap": header({"a": tensor([1]), "b": tensor([1])}, rest=bytes(4)),
    "negative": header({"a": tensor([-1])}, rest=bytes(4)),
    "other dtype": header({"a": tensor([8], dtype="F4")}, rest=bytes(4)),
    "long name": header({"a" * 1_000_000: tensor([1])}, rest=bytes(4)),
    "wrapped name": header({"model." * 100_000: tensor([1])}, rest=bytes(4)),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies_ends_in_a_sentence(tmp_path, name):
    file = tmp_path / "model.safetensors"
    file.write_bytes(HEADERS[name])
    with fuzzing.time_limit(cpu=5), pytest.raises(MissingModelError, match=r"model\.safetensors") as error:
        for stored in read_checkpoint(file).tensors.values():
            stored.read()
    assert len(str(error.value)) < 500


def legacy_pickle(*parts: bytes) -> bytes:
    """A file as torch wrote them before 2020, whose third pickle is ``parts``."""
    return b"".join([*(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {})), *parts])


PICKLES = {
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**40),
    "text": b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"abc",
    "deep": b"\x80\x02" + b"(" * 2_000_000 + b".",
    "nested": legacy_pickle(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
    "storage": legacy_pickle(
        b"\x80\x02}U\x01actorch._utils\n_rebuild_tensor_v2\n(((U\x07storagectorch\nFloatStorage\nU\x010U\x03cpu\x8a\x06"
        + (2**40).to_bytes(6, "little")
        + b"NtQK\x00\x8a\x06"
        + (2**40).to_bytes(6, "little")
        + b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRs."
    ),
    "numbers as names": pickle.dumps({1: 2, 3: [4]}, 2),
    "long name": legacy_pickle(b"\x80\x02c" + b"a" * 1_000_000 + b"\nb\n."),
    "line without end": legacy_pickle(b"\x80\x02c" + b"\n" * 3 + b"a" * 50_000_000),
    "operations": legacy_pickle(b"\x80\x02]" + b"K\x010" * 3_000_000 + b"."),
    "empty": b"",
    "zero": bytes(100),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_that_asks_for_too_much_ends_in_a_sentence(tmp_path, name):
    file = tmp_path / "model.pt"
    file.write_bytes(PICKLES[name])
    with fuzzing.time_limit(cpu=5), pytest.raises((MissingModelError, RefusedModelError), match=r"model\.pt"):
        read_checkpoint(file)


def test_a_packed_archive_is_not_unpacked(tmp_path):
    file = tmp_path / "model.pt"
    torch.save({"w": torch.zeros(2)}, file)
    records = {name: zipfile.ZipFile(file).read(name) for name in zipfile.ZipFile(file).namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in records.items():
            packed.writestr(name, content + bytes(50_000_000) * name.endswith(".pkl"))
    with fuzzing.time_limit(cpu=5), pytest.raises(MissingModelError, match="compressed"):
        read_checkpoint(file)


def test_tensors_that_are_no_plain_arrays_are_not_read(tmp_path):
    file = tmp_path / "model.pt"
    torch.save(
        {1: torch.ones(1), "a": torch.eye(3).to_sparse(), "b": torch.ones(2), "c": torch.empty(2, device="meta")}, file
    )
    assert list(read_checkpoint(file).tensors) == ["b"]
    torch.save({"b": torch.ones(1).expand(2**40)}, file)
    with pytest.raises(MissingModelError, match=r"model\.pt.*tensor b"):
        convert(file, tmp_path / "there.safetensors", "diffusers", "as-stored")


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_A.weight": torch.zeros(0, 4), "lora_B.weight": torch.zeros(4, 0)},
        {"lora_A.weight": torch.zeros(4), "lora_B.weight": torch.zeros(4)},
        {"alpha": torch.zeros(2)},
        {"alpha": torch.tensor(torch.nan)},
        {"lora_B.weight": torch.zeros(4, 3)},
    ],
)
def test_a_damaged_lora_ends_in_a_sentence(tmp_path, changes):
    pair = {"lora_A.weight": torch.zeros(2, 4), "lora_B.weight": torch.zeros(4, 2), "alpha": torch.tensor(1.0)}
    save_file(
        {f"blocks.0.ffn.0.{name}": value for name, value in {**pair, **changes}.items()}, tmp_path / "a.safetensors"
    )
    with pytest.raises(MissingModelError, match=r"a\.safetensors: this"):
        read_lora(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "index",
    [
        "[" * 100_000,
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": {"a": "' + "b" * 999 + '"}}',
        '{"weight_map": {"a": ".."}}',
        '{"weight_map": {"a": "../b"}}',
    ],
)
def test_an_index_of_shards_stays_in_its_folder(tmp_path, index):
    (tmp_path / "model").mkdir()
    save_file({"a": torch.ones(1)}, tmp_path / "b")
    (tmp_path / "model" / "model.safetensors.index.json").write_text(index)
    with pytest.raises(MissingModelError, match=r"index\.json"):
        weight_files(tmp_path / "model")


@pytest.mark.parametrize(
    "change", [{"size": "9999x9999"}, {"size": 7}, {"subjects": []}, {"fps": 0}, {"block": 1e9}, {"a": 1}]
)
def test_an_edition_is_checked(tmp_path, change):
    values = yaml.safe_load((Path(__file__).parents[1] / "models" / "storybook" / "edition.yaml").read_text())
    (tmp_path / "edition.yaml").write_text(yaml.safe_dump(values | change))
    with pytest.raises(BlockvidError, match=r"edition\.yaml"):
        read_edition(tmp_path / "edition.yaml")


@pytest.mark.parametrize("name", ["../model", "/tmp/model", "a/b/c", ".", "", "a b"])
def test_a_sentence_model_is_no_path(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="owner/name"):
        sentence_model(name)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('[{"type": "os.system", "path": ""}]', RefusedModelError),
        ('[{"type": "sentence_transformersx.Evil"}]', RefusedModelError),
        ("[" * 100_000, MissingModelError),
        ("[{}]", MissingModelError),
        ("7", MissingModelError),
    ],
)
def test_a_sentence_model_is_made_of_the_librarys_classes(tmp_path, monkeypatch, text, kind):
    (tmp_path / "modules.json").write_text(text)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(tmp_path))
    with pytest.raises(kind, match=r"modules\.json"):
        sentence_model("someone/model")


def test_a_sentence_model_that_may_not_be_downloaded_says_so(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingModelError, match=r"cannot be downloaded \(HF_HUB_OFFLINE is set"):
        sentence_model("someone/a-model-that-is-not-here")
