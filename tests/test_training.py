"""Training: losses fall, resumed = uninterrupted to the bit, teacher forcing sees what the rollout would show."""

from __future__ import annotations

import importlib.util
import itertools
import json

import pytest
import torch

from blockvid_cli.datasets.storybook_clips import StoryClips
from blockvid_cli.datasets.storybook_latents import TOP, story_latents
from blockvid_cli.errors import BlockvidError
from blockvid_cli.models.card import ModelCard, find_card
from blockvid_cli.models.wan.networks import WanTransformer3DModel
from blockvid_cli.models.loading import load_text_encoder
from blockvid_cli.models.tiny_vae import TinyVAE, TinyVAEConfig
from blockvid_cli.models.wan.attention import LayerQKV
from blockvid_cli.models.wan.denoiser import WanDenoiser
from blockvid_cli.models.wan.rope import Rope, token_grid
from blockvid_cli.rollout.kv_cache.semantic import SemanticCache
from blockvid_cli.storybook.edition import read_edition
from blockvid_cli.storybook.stories import make_story
from blockvid_cli.training.objectives.diffusion_forcing import DiffusionForcing
from blockvid_cli.training.objectives.own_rollout import OwnRollout
from blockvid_cli.training.objectives.reconstruction import Reconstruction
from blockvid_cli.training.objectives.teacher_forcing import BatchConfig, DataSplit, TeacherForcing
from blockvid_cli.training.optimizers import KernelMuon, muon_and_adamw
from blockvid_cli.training.storybook import ADAMW_MODULES, TrainConfig, init_weights, retrain
from blockvid_cli.training.trainer import TrainerConfig, train
from blockvid_cli.training.windows import look_back, windows
from tests import small
from tests.conftest import CARD

SIZES = TinyVAEConfig(4, 16, 16, 16, 16, (1, 1), (1, 1))


@pytest.fixture(scope="module")
def clips() -> StoryClips:
    return StoryClips(read_edition(), range(2), 3)


@pytest.fixture(scope="module")
def stories(tmp_path_factory):
    torch.manual_seed(0)
    codec, file = TinyVAE(SIZES).eval(), tmp_path_factory.mktemp("latents") / "latents.pt"
    card = ModelCard.model_validate(CARD)
    told = [make_story(read_edition(), seed, 16) for seed in range(4)]
    assert any(chunk.cut for story in told for chunk in story.chunks)
    return story_latents(read_edition(), codec, load_text_encoder(card), told, file, lambda figures: None)


def forcing(stories, kind: type[TeacherForcing] = TeacherForcing) -> TeacherForcing:
    torch.manual_seed(0)
    network = WanTransformer3DModel(**CARD["transformer"]["config"])
    init_weights(network)
    shelf, codec = DataSplit(stories, stories), TinyVAE(SIZES).eval()
    return kind(WanDenoiser(network), codec, shelf, shelf, BatchConfig(windows=2, copies=2, openings=2))


def muon(objective, rate: float, others: float):
    return muon_and_adamw(objective.module, rate, others, but=("linear", *ADAMW_MODULES))


def reconstruction(clips) -> Reconstruction:
    torch.manual_seed(0)
    return Reconstruction(TinyVAE(SIZES).to(memory_format=torch.channels_last), clips, clips)


def run(objective, optimizers, folder, steps: int) -> dict[str, torch.Tensor]:
    train(objective, optimizers, TrainerConfig(steps, warm_up=2, save_every=3, look_every=3), folder)
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


@pytest.mark.parametrize("kind", ["reconstruction", TeacherForcing, DiffusionForcing, OwnRollout])
def test_resumed_training_equals_uninterrupted_to_the_bit(kind, clips, stories, tmp_path):
    def fresh():
        if kind == "reconstruction":
            objective = reconstruction(clips)
            return objective, muon(objective, 1e-3, 1e-3)
        objective = forcing(stories, kind)
        return objective, muon(objective, 1e-3, 1e-3)

    whole = run(*fresh(), tmp_path / "whole", 6)
    objective, optimizers = fresh()
    with pytest.raises(Cut):
        run(cut_after(objective, 5), optimizers, tmp_path / "cut", 6)
    again = run(*fresh(), tmp_path / "cut", 6)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    log = [json.loads(line) for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [3, 6]
    assert [file.name for file in sorted((tmp_path / "cut" / "samples").iterdir())] == ["000003.png", "000006.png"]


def test_reconstruction_falls(clips, tmp_path):
    objective = reconstruction(clips)
    before = objective.figures()["psnr"]
    train(objective, muon(objective, 6e-3, 3e-3), TrainerConfig(25, warm_up=3), tmp_path)
    assert objective.figures()["psnr"] > before + 3


def test_teacher_forcing_falls(stories, tmp_path):
    objective = forcing(stories)
    before = objective.figures()
    train(objective, muon(objective, 5e-3, 3e-3), TrainerConfig(25, warm_up=3), tmp_path)
    after = objective.figures()
    assert after["opening"] < 0.97 * before["opening"] and after["later"] < 0.97 * before["later"]


def test_latents_are_made_again_for_another_codec_or_other_stories(tmp_path):
    reading, asked = load_text_encoder(ModelCard.model_validate(CARD)), []
    told = [make_story(read_edition(), seed, 2) for seed in range(3)]
    codecs = [TinyVAE(SIZES).eval() for _ in range(2)]
    for codec, stories in ((codecs[0], told[:2]), (codecs[0], told[:2]), (codecs[1], told[:2]), (codecs[1], told)):
        made = story_latents(read_edition(), codec, reading, stories, tmp_path / "latents.pt", asked.append)
        assert len(made.latents) == len(stories)
    assert len(asked) == 3


def test_batches_are_pure_functions_of_the_step(stories):
    objective = forcing(stories)
    first, again, other = (objective.loss(step, 0)[0] for step in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_block_looks_back_at_what_the_rollout_would_show(stories):
    """Recalled chunks' last blocks, then the recent chunk's last, then the block before it in its own chunk."""
    for story in range(4):
        of_block, cuts = stories.chunk[story].tolist(), stories.cuts[story]
        for target in range(1, 16):
            context = look_back(stories, story, target)
            chunk = of_block[target]
            recent = [chunk - 1] if chunk and not cuts[chunk] else []
            inside = of_block[target - 1] == chunk
            chunks = [*stories.alike[story][chunk], *recent]
            assert [of_block[block] for block in context[: len(chunks)]] == chunks
            assert all(block == 15 or of_block[block + 1] != of_block[block] for block in context[: len(chunks)])
            assert context[len(chunks) :] == ([target - 1] if inside else [])
            assert context[-1] == target - 1 or not (inside or recent)
            assert not set(recent) & set(stories.alike[story][chunk])


@pytest.mark.parametrize("number", range(4))
def test_the_rollout_shows_a_block_what_training_showed_it(stories, number):
    """A memory that recalls two chunks of any shot chooses the very blocks that teacher forcing gave; the bundled
    recipe's, which recalls less, never one that teacher forcing did not give."""
    chunks = make_story(read_edition(), number, 16).chunks
    words, cuts = [c.caption for c in chunks], [c.cut for c in chunks]
    film = small.plan([c.blocks for c in chunks], frames=3, captions=words, cuts=cuts)
    options = find_card("storybook").recipe["kv_cache"]
    memory = SemanticCache(options["recent"], TOP, tau=1.0, last_blocks=options["last_blocks"])
    bundled = SemanticCache(options["recent"], options["top"], 1.0, last_blocks=options["last_blocks"], other_shots_only=options["other_shots_only"])
    for one in (memory, bundled):
        one.begin(film.chunks, Rope(24))
    for block in film.blocks:
        context = look_back(stories, number, block.number) if block.number else []
        assert [frame // 3 for frame in memory.view((block,)).frames[::3]] == context
        assert {frame // 3 for frame in bundled.view((block,)).frames} <= set(context)
        tokens = torch.randn(1, 18, 2, 24)
        for one in (memory, bundled):
            one.update(block, [LayerQKV(tokens, tokens, tokens)], token_grid(3, 2, 3))


@pytest.mark.parametrize("before", [0, 1])
def test_windows_of_a_batch_share_one_shape(stories, before):
    chosen = windows(stories, 3, torch.Generator().manual_seed(1), before)
    assert chosen.stories.shape == chosen.targets.shape == (3,) and chosen.context.shape[0] == 3
    for story, target, context in zip(chosen.stories, chosen.targets, chosen.context, strict=True):
        assert look_back(stories, int(story), int(target)) == context.tolist() and target > before
        assert not before or int(target) - 1 == context[-1]


def test_own_rollout_begins_late_and_shows_the_networks_own_block(stories):
    objective, plain = forcing(stories, OwnRollout), forcing(stories)
    assert torch.equal(objective.loss(3, 0.5)[0], plain.loss(3, 0.5)[0])
    loss, figures = objective.loss(3, 0.9)
    assert "own" in figures and loss.requires_grad
    chosen = windows(stories, 2, torch.Generator().manual_seed(3), 1)
    own = objective.own(objective.learnt, chosen, torch.Generator().manual_seed(3))
    true = objective.true(objective.learnt, chosen)[:, -1]
    assert own.shape == true.shape and not own.requires_grad and not torch.allclose(own, true, atol=0.1)


def test_diffusion_forcing_gives_every_frame_its_own_level(stories):
    objective, dice = forcing(stories, DiffusionForcing), torch.Generator().manual_seed(0)
    levels = objective.levels(50, 3, dice)
    assert levels.shape == (50, 3) and (levels[:, 0] != levels[:, 1]).all() and levels.max() > 0.9
    assert objective.context_levels(50, 4, dice).unique().numel() == 200
    assert forcing(stories).context_levels(50, 4, dice).max() <= 0.15


def test_muon_takes_kernels_as_the_matrices_they_are():
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 8, 3, bias=False).to(memory_format=torch.channels_last)
    line = torch.nn.Linear(36, 8, bias=False)
    line.weight.data = conv.weight.detach().permute(0, 2, 3, 1).flatten(1).clone()
    gradient = torch.randn(8, 36)
    ours = KernelMuon([conv.weight], 0.1)
    stock = torch.optim.Muon(
        line.parameters(), lr=0.1, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    conv.weight.grad = (
        gradient.unflatten(1, (3, 3, 4)).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    )
    line.weight.grad = gradient
    ours.step()
    stock.step()
    assert torch.equal(conv.weight.permute(0, 2, 3, 1).flatten(1), line.weight)
    with pytest.raises(ValueError, match="channels_last"):
        KernelMuon([torch.nn.Conv2d(4, 8, 3).weight], 0.1)


@pytest.mark.skipif(not importlib.util.find_spec("tensorboard"), reason="tensorboard comes with the extra 'train'")
def test_tensorboard_gets_figures_and_pictures(clips, tmp_path):
    objective = reconstruction(clips)
    run(objective, muon(objective, 1e-3, 1e-3), tmp_path, 3)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload().Tags()
    assert {"loss", "held_out_psnr"} <= set(events["scalars"]) and events["images"] == ["sample"]


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\x03\x04 not a checkpoint", b"\x80\x02]q\x00."])
def test_a_damaged_checkpoint_gets_a_sentence(clips, tmp_path, content):
    (tmp_path / "state.pt").write_bytes(content)
    objective = reconstruction(clips)
    with pytest.raises(BlockvidError, match=r"state\.pt"):
        train(objective, muon(objective, 1e-3, 1e-3), TrainerConfig(2), tmp_path)


def test_the_rate_warms_up_holds_and_falls():
    pace = TrainerConfig(100, warm_up=10)
    rates = [pace.rate(step) for step in range(100)]
    assert rates[0] == 0.1 and rates[10:30] == [1.0] * 20 and rates[-1] < 0.05
    assert all(a >= b for a, b in itertools.pairwise(rates[30:]))


@pytest.mark.slow
def test_the_bundled_model_is_retrained_by_one_command(tmp_path):
    """A few steps of every phase give a folder that renders."""
    course = TrainConfig(
        codec_steps=4,
        codec_stories=3,
        codec_blocks=3,
        stories=45,
        openings=45,
        network_steps=4,
        story_blocks=12,
        probe_stories=3,
        probe_steps=4,
    )
    folder = retrain(course, tmp_path / "run", tmp_path / "model", lambda figures: None)
    from blockvid_cli.job import RenderRequest, prepare
    from blockvid_cli.render import render

    story = tmp_path / "story.yaml"
    story.write_text("version: 1\nchunks: [{caption: A red boat., duration: 2s}]\n")
    assert render(prepare(RenderRequest(story, model=str(folder)))).frames == 24
