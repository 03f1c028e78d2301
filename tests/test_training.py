"""Training: losses fall, resumed = uninterrupted to the bit, the context of a block is what the rollout shows it."""

from __future__ import annotations

import importlib.util
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import nn

from blockvid_cli.datasets.storybook import (
    StoryClips,
    StoryLatents,
    attended_blocks,
    encode_stories,
    plan_story,
    sample_windows,
)
from blockvid_cli.errors import BlockvidError, UsageError
from blockvid_cli.models.card import ModelCard, find_card
from blockvid_cli.models.flow_matching import add_noise, make_sigmas, shift_sigmas
from blockvid_cli.models.loading import load_text_encoder
from blockvid_cli.models.sentence_encoder import embed
from blockvid_cli.models.tiny_vae import TinyVAE
from blockvid_cli.models.wan.attention import TokenKV
from blockvid_cli.models.wan.denoiser import WanDenoiser
from blockvid_cli.models.wan.networks import WanTransformer3DModel
from blockvid_cli.models.wan.rope import token_grid
from blockvid_cli.rollout.kv_cache.base import KVView, resident_entry
from blockvid_cli.rollout.noise import gaussian
from blockvid_cli.rollout.recipe import Recipe, make_recipe, merge_recipes
from blockvid_cli.storybook.edition import read_edition
from blockvid_cli.storybook.stories import make_story
from blockvid_cli.training.objectives import Losses, LossPart
from blockvid_cli.training.objectives.reconstruction import Reconstruction
from blockvid_cli.training.objectives.teacher_forcing import (
    BatchConfig,
    DataSplit,
    DiffusionForcing,
    OwnRollout,
    TeacherForcing,
    context_latents,
)
from blockvid_cli.training.storybook import (
    ADAMW_MODULES,
    TRAINING_RECIPE,
    TrainConfig,
    init_weights,
    retrain,
)
from blockvid_cli.training.trainer import KernelMuon, Trainer, TrainerConfig, muon_and_adamw, train
from tests.conftest import CARD

EDITION = read_edition()
STORIES = [make_story(EDITION, seed, 16) for seed in range(4)]
SIZES = CARD["vae"]["config"]


def recipe(**changes: object) -> Recipe:
    """The bundled model's recipe as training changes it, changed."""
    return make_recipe(merge_recipes(find_card("storybook").recipe, TRAINING_RECIPE, changes))


@pytest.fixture(scope="module")
def clips() -> StoryClips:
    return StoryClips(EDITION, range(2), 3)


@pytest.fixture(scope="module")
def stories(tmp_path_factory) -> StoryLatents:
    torch.manual_seed(0)
    vae, file = TinyVAE.from_config(SIZES).eval(), tmp_path_factory.mktemp("latents") / "latents.safetensors"
    encoder = load_text_encoder(ModelCard.model_validate(CARD))
    assert any(chunk.cut for story in STORIES for chunk in story.chunks)
    return encode_stories(EDITION, vae, encoder, recipe(), STORIES, file, lambda figures: None)


def forcing(
    stories: StoryLatents, kind: type[TeacherForcing] = TeacherForcing, rates: tuple[float, float] = (1e-3, 1e-3)
) -> TeacherForcing:
    torch.manual_seed(0)
    network = WanTransformer3DModel(**CARD["transformer"]["config"])
    init_weights(network)
    data, vae = DataSplit(stories, stories), TinyVAE.from_config(SIZES).eval()
    optimizers = muon_and_adamw(network, *rates, but=ADAMW_MODULES)
    batch = BatchConfig(windows=2, copies=2, openings=2)
    return kind(WanDenoiser(network), vae, recipe(), data, data, optimizers, batch)


def reconstruction(clips: StoryClips, rates: tuple[float, float] = (1e-3, 1e-3)) -> Reconstruction:
    torch.manual_seed(0)
    vae = TinyVAE.from_config(SIZES).to(memory_format=torch.channels_last)
    return Reconstruction(vae, clips, clips, muon_and_adamw(vae, *rates, but=("linear",)))


class Alternating:
    """A generator and a critic, two linear layers; the critic learns every second step."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.generator, self.critic = nn.Linear(4, 4), nn.Linear(4, 1)
        self.trained: list[tuple[str, int]] = []

    def losses(self) -> Sequence[LossPart]:
        parts = ("generator", self.generator, 1), ("critic", self.critic, 2)
        return [
            LossPart(name, module, [torch.optim.AdamW(module.parameters(), 1e-2)], self._loss(name), every)
            for name, module, every in parts
        ]

    def _loss(self, name: str):
        def loss(step: int, progress: float) -> Losses:
            self.trained.append((name, step))
            x = torch.randn(3, 4, generator=torch.Generator().manual_seed(step))
            fake, real = self.critic(self.generator(x)), self.critic(x)
            yield (fake if name == "generator" else real - fake).mean(), {}

        return loss

    def evaluate(self) -> dict[str, float]:
        return {"bias": float(self.generator.bias.detach().sum())}

    def sample(self) -> torch.Tensor:
        return torch.zeros(3, 4, 4)


def run(objective, folder, steps: int) -> dict[str, torch.Tensor]:
    """All weights after a training, before the average takes their place, and the average."""
    trainer = Trainer(objective, TrainerConfig(steps, warm_up=2, save_every=3, evaluate_every=3), folder)
    trainer.train(lambda figures: None)
    weights = {f"{part.name}.{k}": v for part in trainer.parts for k, v in part.module.state_dict().items()}
    average = {f"average.{number}": value for number, value in enumerate(trainer.ema.shadow_params)}
    return {name: value.clone() for name, value in (weights | average).items()}


class Killed(Exception):
    """Stands for a kill."""


def killed_at(objective, step: int):
    """The objective, killed when it is asked for the loss of ``step``."""
    parts = objective.losses()

    def losses():
        def loss(number, progress):
            if number == step:
                raise Killed
            return parts[0].loss(number, progress)

        return [replace(parts[0], loss=loss), *parts[1:]]

    objective.losses = losses
    return objective


@pytest.mark.parametrize("kind", ["reconstruction", "alternating", TeacherForcing, DiffusionForcing, OwnRollout])
def test_resumed_training_equals_uninterrupted_to_the_bit(kind, clips, stories, tmp_path):
    def fresh():
        if kind == "alternating":
            return Alternating()
        return reconstruction(clips) if kind == "reconstruction" else forcing(stories, kind)

    whole = run(fresh(), tmp_path / "whole", 6)
    with pytest.raises(Killed):
        run(killed_at(fresh(), 5), tmp_path / "killed", 6)
    resumed = run(fresh(), tmp_path / "killed", 6)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    log = [json.loads(line) for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [3, 6]
    assert [file.name for file in sorted((tmp_path / "killed" / "samples").iterdir())] == ["000003.png", "000006.png"]


def test_every_part_is_trained_by_its_own_optimizers_when_it_is_due(tmp_path):
    objective = Alternating()
    figures: list[dict[str, float]] = []
    train(objective, TrainerConfig(4, warm_up=0, evaluate_every=1), tmp_path, figures.append)
    due = [("generator", 0), ("critic", 0), ("generator", 1), ("generator", 2), ("critic", 2), ("generator", 3)]
    assert objective.trained == due
    assert ["critic_loss" in row for row in figures] == [True, False, True, False]
    # the generator's loss reaches the critic's weights too, and must not move them: one step of each by hand
    expected, trained = Alternating(), Alternating()
    for part in expected.losses():
        expected.critic.zero_grad()
        next(iter(part.loss(0, 0)))[0].backward()
        nn.utils.clip_grad_norm_(part.module.parameters(), 1.0)
        part.optimizers[0].step()
    train(trained, TrainerConfig(1, warm_up=0), tmp_path / "one")
    assert torch.equal(trained.critic.weight, expected.critic.weight)
    assert torch.equal(trained.generator.weight, expected.generator.weight)


def test_the_average_warms_up_and_is_what_is_evaluated_and_returned(tmp_path):
    objective, seen, weights = Alternating(), [], []
    part = objective.losses()[0]

    def loss(step: int, progress: float) -> Losses:
        weights.append(objective.generator.bias.detach().clone())
        return part.loss(step, progress)

    objective.losses = lambda: [replace(part, loss=loss)]
    objective.evaluate = lambda: seen.append(objective.generator.bias.detach().clone()) or {}
    train(objective, TrainerConfig(5, warm_up=0, ema_decay=0.2, evaluate_every=1), tmp_path)
    average = weights[1]  # of step 0, the first to be averaged
    for step in range(1, 4):
        decay = min(0.2, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weights[step + 1]
        assert torch.allclose(seen[step], average, atol=1e-7)
    assert torch.equal(objective.generator.bias, seen[-1]) and not torch.equal(seen[-1], weights[-1])


def test_reconstruction_falls(clips, tmp_path):
    objective = reconstruction(clips, (6e-3, 3e-3))
    before = objective.evaluate()["psnr"]
    train(objective, TrainerConfig(25, warm_up=3), tmp_path)
    assert objective.evaluate()["psnr"] > before + 3


def test_teacher_forcing_falls(stories, tmp_path):
    objective = forcing(stories, rates=(1e-2, 1e-2))
    before = objective.evaluate()
    train(objective, TrainerConfig(60, warm_up=3, ema_decay=0.9), tmp_path)
    after = objective.evaluate()
    assert after["opening"] < 0.15 * before["opening"] and after["later"] < 0.15 * before["later"]


def test_latents_are_encoded_again_for_another_vae_or_other_stories_or_a_damaged_file(tmp_path):
    encoder, events = load_text_encoder(ModelCard.model_validate(CARD)), []
    stories, file = [make_story(EDITION, seed, 2) for seed in range(3)], tmp_path / "latents.safetensors"
    vaes = [TinyVAE.from_config(SIZES).eval() for _ in range(2)]
    for vae, some in ((vaes[0], stories[:2]), (vaes[0], stories[:2]), (vaes[1], stories[:2]), (vaes[1], stories)):
        latents = encode_stories(EDITION, vae, encoder, recipe(), some, file, events.append)
        assert len(latents.latents) == len(some)
    assert len(events) == 3
    file.write_bytes(file.read_bytes()[:100])
    again = encode_stories(EDITION, vaes[1], encoder, recipe(), stories, file, events.append)
    assert len(events) == 4 and torch.equal(again.latents, latents.latents)


def test_batches_are_pure_functions_of_the_step(stories):
    objective = forcing(stories)
    first, again, other = (next(objective.loss(step, 0))[0] for step in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("number", range(4))
def test_a_block_attends_to_what_the_recipes_cache_shows_it(stories, number):
    """Retrieved chunks' last blocks, then the recent chunk's last, then the block before, from the captions."""
    chunks, plan = STORIES[number].chunks, stories.plans[number]
    vectors = embed([chunk.caption for chunk in chunks])
    for block in plan.blocks:
        chunk = block.chunk - 1
        recent = [chunk - 1] if chunk and not chunks[chunk].cut else []
        others = [past for past in range(chunk) if past not in recent]
        similar = sorted(others, key=lambda past: (-round(float(vectors[chunk] @ vectors[past]), 6), past))[:2]
        expected = [plan.chunks[past].blocks[-1].number for past in (*sorted(similar), *recent)]
        expected += [block.number - 1] if block.number and plan.blocks[block.number - 1].chunk == block.chunk else []
        assert list(stories.context[number][block.number]) == expected


def test_the_recipe_decides_the_context(stories):
    """The card's own recipe shows no block that training did not show; a window shows the latest blocks of the shot."""
    card = make_recipe(find_card("storybook").recipe)
    for plan, context in zip(stories.plans, stories.context, strict=True):
        assert all(set(fewer) <= set(more) for fewer, more in zip(attended_blocks(plan, card), context, strict=True))
    window = recipe(kv_cache={"name": "window", "window": 9, "sink": 0})
    plan = plan_story(STORIES[0], EDITION, (4, 2, 2))
    shots = [block.shot for block in plan.blocks]
    expected = [[n for n in (b - 2, b - 1) if n >= 0 and shots[n] == shots[b]] for b in range(16)]
    assert [list(blocks) for blocks in attended_blocks(plan, window)] == expected
    with pytest.raises(UsageError, match="whole blocks"):
        attended_blocks(plan, recipe(kv_cache={"name": "window", "window": 8, "sink": 0}))


@pytest.mark.parametrize("before", [0, 1])
def test_windows_of_a_batch_share_one_shape(stories, before):
    windows = sample_windows(stories, 3, torch.Generator().manual_seed(1), before)
    assert windows.stories.shape == windows.targets.shape == (3,) and windows.context.shape[0] == 3
    for story, target, context in zip(windows.stories, windows.targets, windows.context, strict=True):
        assert list(stories.context[story][target]) == context.tolist() and target > before
        assert not before or int(target) - 1 == context[-1]


def dense_view(objective: TeacherForcing, stories: StoryLatents, windows, noisy, sigmas, copies: int = 1) -> KVView:
    """The context of windows, encoded by the bare denoiser: each block by itself, at its own sigma."""
    entries = []
    for number in range(windows.context.shape[1]):
        prompts = torch.cat(
            [
                stories.embedding(stories.plans[story].blocks[block].prompt)
                for story, block in zip(windows.stories.tolist(), windows.context[:, number].tolist(), strict=True)
            ]
        )
        x, sigma = noisy[:, number], sigmas[:, number, None].expand(-1, 3)
        with torch.autocast("cpu", torch.bfloat16):
            _, layers = objective.denoiser(x, sigma, prompts, torch.arange(3.0), KVView(record=True))
        grid = token_grid(3, x.shape[3] // 2, x.shape[4] // 2)
        rows = [[x.repeat_interleave(copies, 0) for x in layer] for layer in layers]
        tokens = [TokenKV(keys, values, grid) for _, keys, values in rows]
        entries.append(resident_entry(range(3 * number, 3 * number + 3), tokens))
    return KVView(entries)


@pytest.mark.parametrize("copies", [1, 2])
@pytest.mark.parametrize("kind", [TeacherForcing, DiffusionForcing])
def test_the_loss_is_the_velocity_error_over_encoded_context(stories, kind, copies):
    """With the same random numbers in the same order, written down without a rollout and a cache."""
    objective, generator = forcing(stories, kind), torch.Generator().manual_seed(5)
    objective.batch = replace(objective.batch, copies=copies)
    nn.init.normal_(objective.denoiser.network.proj_out.weight, std=0.1)
    windows = sample_windows(stories, 2, torch.Generator().manual_seed(2))
    context = context_latents(stories, windows)
    loss = objective.later_error(objective.data, windows, context, torch.Generator().manual_seed(5))

    sigmas = objective.context_sigmas(2, context.shape[1], generator)
    noisy = add_noise(context, torch.randn(context.shape, generator=generator), sigmas[..., None, None, None, None])
    view = dense_view(objective, stories, windows, noisy, sigmas, copies)
    rows = [row for row in (0, 1) for _ in range(copies)]
    clean = stories.block_latents(windows.stories, windows.targets)[rows]
    noise = torch.randn(clean.shape, generator=generator)
    sigma = objective.target_sigmas(2 * copies, 3, generator)
    kept = torch.rand(2 * copies, 1, 1, generator=generator) >= 0.08
    s = sigma[..., None, None, None]
    with torch.autocast("cpu", torch.bfloat16):
        positions = torch.arange(3.0 * context.shape[1] + 3)
        x, prompts = (1 - s) * clean + s * noise, target_prompts(stories, windows)[rows] * kept
        velocity, _ = objective.denoiser(x, sigma, prompts, positions, view)
    weight = (1 + 4 * stories.block_subjects(windows.stories, windows.targets)[rows]) * (s / s.clamp(min=0.25)) ** 2
    assert float(loss.detach()) == pytest.approx(
        float((weight * (velocity.detach() - noise + clean) ** 2).mean()), abs=1e-6
    )


def target_prompts(stories: StoryLatents, windows) -> torch.Tensor:
    """The prompts (B, L, D) of windows' targets."""
    pairs = zip(windows.stories.tolist(), windows.targets.tolist(), strict=True)
    return torch.cat([stories.embedding(stories.plans[s].blocks[t].prompt) for s, t in pairs])


def test_gradients_reach_every_weight_and_flow_through_the_encoded_context(stories):
    objective = forcing(stories)
    for weight in objective.denoiser.network.parameters():
        nn.init.normal_(weight, std=0.05) if weight.ndim > 1 else None
    windows = sample_windows(stories, 2, torch.Generator().manual_seed(2))
    context = context_latents(stories, windows).requires_grad_()
    objective.later_error(objective.data, windows, context, torch.Generator().manual_seed(0)).backward()
    assert context.grad is not None and all(float(block.abs().sum()) > 0 for block in context.grad.unbind(1))
    zero = [n for n, w in objective.denoiser.network.named_parameters() if w.grad is None or not w.grad.any()]
    assert not zero


def test_samples_are_the_rollouts(stories):
    """Four Euler steps over the context, encoded with the recipe's context noise, written down without a rollout."""
    objective = forcing(stories)
    nn.init.normal_(objective.denoiser.network.proj_out.weight, std=0.1)
    windows = sample_windows(stories, 2, torch.Generator().manual_seed(3))
    sampled = objective.sample_targets(stories, windows, seed=7)
    clean = context_latents(stories, windows)
    shape = tuple(clean.shape[2:])
    noise = [[gaussian(shape, "commit", 7 + film, n) for n in range(clean.shape[1])] for film in range(2)]
    noisy = add_noise(clean, torch.stack([torch.stack(film) for film in noise]), 0.05)
    with torch.no_grad():
        view = dense_view(objective, stories, windows, noisy, torch.full(clean.shape[:2], 0.05))
    x = torch.stack([torch.stack([gaussian(shape[1:], "frame", 7 + film, i) for i in range(3)]) for film in range(2)])
    prompts = target_prompts(stories, windows)
    for sigma, sigma_next in itertools.pairwise(make_sigmas(4, 2.0)):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            positions = torch.arange(3.0 * clean.shape[1] + 3)
            velocity, _ = objective.denoiser(x, torch.full((2, 3), sigma), prompts, positions, view)
        x = x + (sigma_next - sigma) * velocity
    assert torch.allclose(sampled, x, atol=1e-5) and not sampled.requires_grad


def test_own_rollout_begins_late_and_shows_the_networks_own_block(stories):
    objective, plain = forcing(stories, OwnRollout), forcing(stories)
    assert torch.equal(next(objective.loss(3, 0.5))[0], next(plain.loss(3, 0.5))[0])
    contexts = []
    later_error = objective.later_error
    objective.later_error = lambda data, windows, context, generator: (
        contexts.append((windows, context)) or later_error(data, windows, context, generator)
    )
    loss, figures = next(objective.loss(3, 0.9))
    assert "own" in figures and loss.requires_grad
    (windows, context), generator = contexts[0], torch.Generator().manual_seed(3)
    sample_windows(stories, 2, generator, before=1)
    own, true = objective.own_blocks(windows, generator), context_latents(stories, windows)
    assert torch.equal(context[:, :-1], true[:, :-1]) and torch.allclose(context[:, -1], own, atol=1e-5)
    assert not torch.allclose(own, true[:, -1], atol=0.1)


def test_diffusion_forcing_gives_every_frame_its_own_sigma(stories):
    objective, generator = forcing(stories, DiffusionForcing), torch.Generator().manual_seed(0)
    sigmas = objective.target_sigmas(50, 3, generator)
    assert sigmas.shape == (50, 3) and (sigmas[:, 0] != sigmas[:, 1]).all() and sigmas.max() > 0.9
    assert objective.context_sigmas(50, 4, generator).unique().numel() == 200
    assert forcing(stories).context_sigmas(50, 4, generator).max() <= 0.15


def test_target_sigmas_are_spread_evenly(stories):
    sigmas = forcing(stories).target_sigmas(10, 3, torch.Generator().manual_seed(0))
    edges = shift_sigmas(torch.linspace(0, 1, 11), 2.0)
    assert torch.equal(sigmas[:, 0], sigmas[:, 2])
    assert torch.equal(torch.bucketize(sigmas[:, 0].sort().values, edges), torch.arange(1, 11))


def test_muon_takes_kernels_as_the_matrices_they_are():
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 8, 3, bias=False).to(memory_format=torch.channels_last)
    linear = torch.nn.Linear(36, 8, bias=False)
    linear.weight.data = conv.weight.detach().permute(0, 2, 3, 1).flatten(1).clone()
    gradient = torch.randn(8, 36)
    ours = KernelMuon([conv.weight], 0.1)
    stock = torch.optim.Muon(
        linear.parameters(), lr=0.1, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    conv.weight.grad = (
        gradient.unflatten(1, (3, 3, 4)).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    )
    linear.weight.grad = gradient
    ours.step()
    stock.step()
    assert torch.equal(conv.weight.permute(0, 2, 3, 1).flatten(1), linear.weight)
    with pytest.raises(ValueError, match="channels_last"):
        KernelMuon([torch.nn.Conv2d(4, 8, 3).weight], 0.1)


@pytest.mark.skipif(not importlib.util.find_spec("tensorboard"), reason="tensorboard comes with the extra 'train'")
def test_tensorboard_gets_figures_and_samples(clips, tmp_path):
    run(reconstruction(clips), tmp_path, 3)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload().Tags()
    assert {"loss", "held_out_psnr"} <= set(events["scalars"]) and events["images"] == ["sample"]


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"PK\x03\x04 not a checkpoint", b"\x80\x02]q\x00."])
def test_a_damaged_checkpoint_gets_a_sentence(clips, tmp_path, content):
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(BlockvidError, match=r"state\.pt"):
        train(reconstruction(clips), TrainerConfig(2), tmp_path)


def test_the_rate_warms_up_holds_and_falls():
    config = TrainerConfig(100, warm_up=10)
    rates = [config.rate(step) for step in range(100)]
    assert rates[0] == 0.1 and rates[10:30] == [1.0] * 20 and rates[-1] < 0.05
    assert all(a >= b for a, b in itertools.pairwise(rates[30:]))


@pytest.mark.slow
def test_the_bundled_model_is_retrained_by_one_command(tmp_path):
    """A few steps of every phase give a folder that renders."""
    config = TrainConfig(
        vae_steps=4,
        vae_stories=3,
        vae_blocks=3,
        stories=45,
        openings=45,
        network_steps=4,
        story_blocks=12,
        probe_stories=3,
        probe_steps=4,
    )
    folder = retrain(config, tmp_path / "run", tmp_path / "model", lambda figures: None)
    from blockvid_cli.job import RenderRequest, prepare
    from blockvid_cli.render import render

    story = tmp_path / "story.yaml"
    story.write_text("version: 1\nchunks: [{caption: A red boat., duration: 2s}]\n")
    assert render(prepare(RenderRequest(story, model=str(folder)))).frames == 24


class Accumulating(Alternating):
    """The generator's loss in two halves, one after another."""

    def losses(self) -> Sequence[LossPart]:
        part = super().losses()[0]

        def loss(step: int, progress: float) -> Losses:
            for half in (0, 1):
                x = torch.randn(4, 4, generator=torch.Generator().manual_seed(step))[2 * half : 2 * half + 2]
                yield self.generator(x).square().mean() / 2, {"half": half}

        return [replace(part, loss=loss)]


def test_losses_that_come_one_by_one_make_one_step_of_their_sum(tmp_path):
    objective, figures = Accumulating(), []
    weight = objective.generator.weight.detach().clone()
    train(objective, TrainerConfig(1, warm_up=0), tmp_path, figures.append)
    expected = Accumulating()
    assert torch.equal(expected.generator.weight, weight)
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    loss = expected.generator(x).square().mean()
    loss.backward()
    nn.utils.clip_grad_norm_(expected.generator.parameters(), 1.0)
    torch.optim.AdamW(expected.generator.parameters(), 1e-2).step()
    assert figures[0]["loss"] == pytest.approx(float(loss.detach()), abs=1e-4)
    assert torch.allclose(objective.generator.weight, expected.generator.weight, atol=1e-6)
