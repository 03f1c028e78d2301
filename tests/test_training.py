"""Training: losses fall, resumed = uninterrupted to the bit, teacher forcing sees what the rollout would show."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from blockvid_cli.card import ModelCard
from blockvid_cli.codec.tiny import TinyCodec, TinySizes
from blockvid_cli.denoiser.attention import Layer
from blockvid_cli.denoiser.rope import Rope, grid
from blockvid_cli.denoiser.wan import WanDenoiser
from blockvid_cli.errors import BlockvidError
from blockvid_cli.rollout.memories.semantic import Semantic
from blockvid_cli.storybook.edition import read_edition
from blockvid_cli.storybook.world import tell
from blockvid_cli.text.encoders import text_encoder
from blockvid_cli.training.clips import StoryClips
from blockvid_cli.training.latents import story_latents
from blockvid_cli.training.loop import Pace, adamw, muon_and_adamw, train
from blockvid_cli.training.objectives.reconstruction import Reconstruction
from blockvid_cli.training.objectives.teacher_forcing import Amounts, Shelf, TeacherForcing, look_back, windows
from blockvid_cli.training.storybook import Course, begin, retrain
from blockvid_cli.zoo.load import wan_network
from tests import small
from tests.conftest import CARD

SIZES = TinySizes(4, 16, 16, 16, 16, (1, 1), (1, 1))


@pytest.fixture(scope="module")
def clips() -> StoryClips:
    return StoryClips(read_edition(), range(2), 3)


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    torch.manual_seed(0)
    codec, file = TinyCodec(SIZES).eval(), tmp_path_factory.mktemp("latents") / "latents.pt"
    reading = ModelCard.model_validate(CARD).text
    told = [tell(read_edition(), seed, 16) for seed in range(4)]
    return story_latents(read_edition(), codec, text_encoder(reading), told, file, lambda figures: None)


def forcing(stories) -> TeacherForcing:
    torch.manual_seed(0)
    network = wan_network(CARD["network"]["config"])
    begin(network)
    return TeacherForcing(
        WanDenoiser(network), Shelf(stories, stories), Shelf(stories, stories), Amounts(windows=2, copies=2, openings=2)
    )


def reconstruction(clips) -> Reconstruction:
    torch.manual_seed(0)
    return Reconstruction(TinyCodec(SIZES), clips, clips)


def run(objective, optimizers, folder, steps: int) -> dict[str, torch.Tensor]:
    train(objective, optimizers, Pace(steps, warm_up=2, save_every=3, look_every=3), folder)
    return {name: value.clone() for name, value in objective.module.state_dict().items()}


class Cut(Exception):
    """Stands for a kill."""


def cut_after(objective, step: int):
    """The objective, killed when it is asked for ``step``."""
    real = objective.loss

    def loss(number, progress):
        if number == step:
            raise Cut
        return real(number, progress)

    objective.loss = loss
    return objective


@pytest.mark.parametrize("kind", ["reconstruction", "teacher_forcing"])
def test_resumed_training_equals_uninterrupted_to_the_bit(kind, clips, stories, tmp_path):
    def fresh():
        if kind == "reconstruction":
            objective = reconstruction(clips)
            return objective, adamw(objective.module, 1e-3)
        objective = forcing(stories)
        return objective, muon_and_adamw(objective.module, 1e-3, 1e-3)

    whole = run(*fresh(), tmp_path / "whole", 6)
    objective, optimizers = fresh()
    with pytest.raises(Cut):
        run(cut_after(objective, 5), optimizers, tmp_path / "cut", 6)
    again = run(*fresh(), tmp_path / "cut", 6)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    log = [json.loads(line) for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [3, 6]


def test_reconstruction_falls(clips, tmp_path):
    objective = reconstruction(clips)
    before = objective.figures()["psnr"]
    train(objective, adamw(objective.module, 3e-3), Pace(25, warm_up=3), tmp_path)
    assert objective.figures()["psnr"] > before + 3


def test_teacher_forcing_falls(stories, tmp_path):
    objective = forcing(stories)
    before = objective.figures()
    train(objective, muon_and_adamw(objective.module, 5e-3, 3e-3), Pace(25, warm_up=3), tmp_path)
    after = objective.figures()
    assert after["opening"] < 0.97 * before["opening"] and after["later"] < 0.97 * before["later"]


def test_latents_are_made_again_for_another_codec_or_other_stories(tmp_path):
    reading, asked = text_encoder(ModelCard.model_validate(CARD).text), []
    told = [tell(read_edition(), seed, 2) for seed in range(3)]
    codecs = [TinyCodec(SIZES).eval() for _ in range(2)]
    for codec, stories in ((codecs[0], told[:2]), (codecs[0], told[:2]), (codecs[1], told[:2]), (codecs[1], told)):
        made = story_latents(read_edition(), codec, reading, stories, tmp_path / "latents.pt", asked.append)
        assert len(made.latents) == len(stories)
    assert len(asked) == 3


def test_batches_are_pure_functions_of_the_step(stories):
    objective = forcing(stories)
    first, again, other = (objective.loss(step, 0)[0] for step in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_block_looks_back_at_what_the_rollout_would_show(stories):
    """Recalled chunks' last blocks, then the two recent chunks' last, then the block before it in its own chunk."""
    of_block = stories.chunk[0].tolist()
    for target in range(1, 16):
        context, (count, inside) = look_back(stories, 0, target)
        chunk = of_block[target]
        recent = [c for c in (chunk - 2, chunk - 1) if c >= 0]
        assert [of_block[block] for block in context[:count]] == [*stories.alike[0][chunk], *recent]
        assert all(block == 15 or of_block[block + 1] != of_block[block] for block in context[:count])
        assert context[count:] == ([target - 1] if inside else [])
        assert inside == (of_block[target - 1] == chunk)
    assert all(set(chunks) <= set(range(max(c - 2, 0))) for c, chunks in enumerate(stories.alike[0]))


def test_the_rollout_shows_a_block_what_training_showed_it(stories):
    """The memory of the bundled recipe chooses the very blocks that teacher forcing gave."""
    story = tell(read_edition(), 0, 16)
    film = small.plan([c.blocks for c in story.chunks], frames=3, captions=[c.caption for c in story.chunks])
    memory = Semantic(recent=2, top=2, tau=1.0, blocks=1)
    memory.begin(film.chunks, Rope(24))
    for block in film.blocks:
        context = look_back(stories, 0, block.number)[0] if block.number else []
        assert [frame // 3 for frame in memory.choose((block,)).frames[::3]] == context
        tokens = torch.randn(1, 18, 2, 24)
        memory.remember(block, [Layer(tokens, tokens, tokens)], grid(3, 2, 3))


def test_windows_of_a_batch_share_one_shape(stories):
    chosen, context, target = windows(stories, 3, torch.Generator().manual_seed(1))
    assert chosen.shape == target.shape == (3,) and context.shape[0] == 3
    assert all(
        look_back(stories, int(s), int(t))[0] == c.tolist() for s, t, c in zip(chosen, target, context, strict=True)
    )


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\x03\x04 not a checkpoint", b"\x80\x02]q\x00."])
def test_a_damaged_checkpoint_gets_a_sentence(clips, tmp_path, content):
    (tmp_path / "state.pt").write_bytes(content)
    objective = reconstruction(clips)
    with pytest.raises(BlockvidError, match=r"state\.pt"):
        train(objective, adamw(objective.module, 1e-3), Pace(2), tmp_path)


def test_the_rate_warms_up_holds_and_falls():
    pace = Pace(100, warm_up=10)
    rates = [pace.rate(step) for step in range(100)]
    assert rates[0] == 0.1 and rates[10:30] == [1.0] * 20 and rates[-1] < 0.05
    assert all(a >= b for a, b in itertools.pairwise(rates[30:]))


@pytest.mark.slow
def test_the_bundled_model_is_retrained_by_one_command(tmp_path):
    """A few steps of every phase give a folder that renders."""
    course = Course(
        codec_steps=4, codec_stories=3, codec_blocks=3, stories=45, openings=45, network_steps=4, story_blocks=12
    )
    folder = retrain(course, tmp_path / "run", tmp_path / "model", lambda figures: None)
    from blockvid_cli.order import Order, prepare
    from blockvid_cli.pipeline import render

    story = tmp_path / "story.yaml"
    story.write_text("version: 1\nchunks: [{caption: A red boat., duration: 2s}]\n")
    assert render(prepare(Order(story, model=str(folder)))).frames == 24
