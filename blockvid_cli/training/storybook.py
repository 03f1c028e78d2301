"""The bundled model from nothing: codec, then the latents of many stories, then the network; each phase resumable."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from torch import nn

from blockvid_cli.datasets.storybook_clips import StoryClips
from blockvid_cli.datasets.storybook_latents import StoryLatents, story_latents
from blockvid_cli.errors import lookup
from blockvid_cli.models.card import ModelCard
from blockvid_cli.models.find import find_model
from blockvid_cli.models.registry import tiny_vae, wan_transformer
from blockvid_cli.models.text_encoders import load_text_encoder
from blockvid_cli.models.tiny_vae import TinyVAE, fit_principal, fold
from blockvid_cli.models.wan.denoiser import WanDenoiser
from blockvid_cli.storybook import stories as world
from blockvid_cli.storybook.edition import Edition, read_edition
from blockvid_cli.storybook.probe import Probe
from blockvid_cli.storybook.stories import HELD_OUT, Story
from blockvid_cli.training.objectives.diffusion_forcing import DiffusionForcing
from blockvid_cli.training.objectives.own_rollout import OwnRollout
from blockvid_cli.training.objectives.reconstruction import Reconstruction
from blockvid_cli.training.objectives.teacher_forcing import DataSplit, TeacherForcing
from blockvid_cli.training.objectives.telling_apart import ProbeClassification, LabelledClips
from blockvid_cli.training.optimizers import muon_and_adamw
from blockvid_cli.training.trainer import TrainerConfig, train

OPENINGS = 2_000_000  # the first seed of first blocks

PROBED = 3_000_000  # the first seed of stories that the probe learns from

ADAMW_MODULES = ("condition_embedder", "patch_embedding", "proj_out", "scale_shift_table")  # of Wan's blocks

OBJECTIVES: dict[str, type[TeacherForcing]] = {
    "own-rollout": OwnRollout,
    "teacher-forcing": TeacherForcing,
    "diffusion-forcing": DiffusionForcing,
}
Tell = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class TrainConfig:
    """How much of everything."""

    codec_steps: int = 1800
    codec_stories: int = 240
    codec_blocks: int = 12
    stories: int = 350
    story_blocks: int = 24
    openings: int = 2000
    network_steps: int = 5400
    probe_stories: int = 400
    probe_steps: int = 800
    objective: str = "own-rollout"
    card: str = "storybook"  # a bundled model, or a folder with a card, an edition and its words
    seed: int = 0
    device: str = "cpu"


def train_codec(edition: Edition, card: ModelCard, course: TrainConfig, run: Path, tell: Tell) -> TinyVAE:
    """Trains the codec and sets its latents' mean and deviation; returns it with averaged weights."""
    clips = StoryClips(edition, range(course.codec_stories), course.codec_blocks, course.device)
    held_out = StoryClips(edition, range(HELD_OUT, HELD_OUT + 24), course.codec_blocks, course.device)
    torch.manual_seed(course.seed)
    codec = tiny_vae(card.vae.config).to(course.device)
    fit_principal(codec, fold(clips.batch(torch.Generator().manual_seed(0), 24, 17)[0]).flatten(0, 1))
    codec = codec.to(memory_format=torch.channels_last)
    objective = Reconstruction(codec, clips, held_out)
    optimizers = muon_and_adamw(codec, 4e-3, 1e-3, but=("linear",))
    average = train(objective, optimizers, TrainerConfig(course.codec_steps, hold=0.5), run, tell)
    average.swap(codec)
    _measure_latents(codec, clips)
    return codec.eval()


@torch.no_grad()
def _measure_latents(codec: TinyVAE, clips: StoryClips) -> None:
    """Sets mean and std of each latent channel, so that the network sees zero mean and unit variance."""
    frames, _ = clips.batch(torch.Generator().manual_seed(2), 48, 17)
    z, _ = codec.encoder(fold(frames).flatten(0, 1), len(frames), [])
    codec.mean.copy_(z.mean((0, 2, 3)))
    codec.std.copy_(z.std((0, 2, 3)))


def train_network(
    edition: Edition, card: ModelCard, codec: TinyVAE, course: TrainConfig, run: Path, tell: Tell
) -> WanTransformer3DModel:
    """Trains the network on the latents of stories; returns it with averaged weights."""
    encoder = load_text_encoder(card)

    def encoded(stories: list[Story], name: str) -> StoryLatents:
        return story_latents(edition, codec, encoder, stories, run / f"{name}.pt", tell)

    def told(seeds: range) -> list[Story]:
        return [world.make_story(edition, seed, course.story_blocks) for seed in seeds]

    def opened(seeds: range) -> list[Story]:
        return [world.opening_story(edition, seed) for seed in seeds]

    learnt = DataSplit(
        encoded(opened(range(OPENINGS, OPENINGS + course.openings)), "openings"),
        encoded(told(range(course.stories)), "latents"),
    )
    held_out = DataSplit(
        encoded(opened(range(HELD_OUT, HELD_OUT + 40)), "held-out-openings"),
        encoded(told(range(HELD_OUT, HELD_OUT + 40)), "held-out"),
    )
    torch.manual_seed(course.seed)
    network = wan_transformer(card.transformer.config)
    init_weights(network)
    network = network.to(course.device)
    objective = OBJECTIVES[course.objective](WanDenoiser(network, card.transformer.predicts), codec, learnt, held_out)
    optimizers = muon_and_adamw(network, 4.5e-3, 1.5e-3, but=ADAMW_MODULES)
    average = train(objective, optimizers, TrainerConfig(course.network_steps, hold=0.6), run, tell)
    average.swap(network)
    return network.eval()


def init_weights(network: WanTransformer3DModel) -> None:
    """Initial weights: no output, no reading of captions, open gates of 0.3, a timid clock."""
    with torch.no_grad():
        nn.init.zeros_(network.proj_out.weight)
        nn.init.zeros_(network.proj_out.bias)
        nn.init.normal_(network.condition_embedder.time_proj.weight, std=0.01)
        nn.init.zeros_(network.condition_embedder.time_proj.bias)
        network.scale_shift_table.zero_()
        for block in network.blocks:
            nn.init.zeros_(block.attn2.to_out[0].weight)
            nn.init.zeros_(block.attn2.to_out[0].bias)
            block.scale_shift_table.zero_()
            block.scale_shift_table[:, (2, 5)] = 0.3


def train_probe(edition: Edition, course: TrainConfig, run: Path, tell: Tell) -> Probe:
    """Trains the probe that reads pictures; returns it with averaged weights."""
    torch.manual_seed(course.seed)
    probe = Probe(edition)
    learnt = LabelledClips(probe, edition, range(PROBED, PROBED + course.probe_stories), course.story_blocks)
    held_out = LabelledClips(probe, edition, range(HELD_OUT, HELD_OUT + 40), course.story_blocks)
    optimizers = [torch.optim.AdamW(probe.parameters(), lr=2e-3)]
    average = train(ProbeClassification(probe, learnt, held_out), optimizers, TrainerConfig(course.probe_steps), run, tell)
    average.swap(probe)
    return probe.eval()


def ship(card: ModelCard, codec: TinyVAE, network: WanTransformer3DModel, probe: Probe) -> None:
    """Writes the weights beside the card, in half precision."""
    for file, module in ((card.vae.file, codec), (card.transformer.file, network), (str(card.probe), probe)):
        weights = {name: value.half().contiguous() for name, value in module.state_dict().items()}
        save_file(weights, card.folder / file)


def retrain(course: TrainConfig, run: Path, output: Path, tell: Tell) -> Path:
    """All phases; writes a folder with the card, its edition and all weights, and returns it.

    Raises:
        UsageError: there is no such objective.
        MissingModelError: there is no such card.
    """
    lookup("objective", OBJECTIVES, course.objective)
    card = find_model(course.card)
    edition = read_edition(card.folder / str(card.edition))
    codec = train_codec(edition, card, course, run / "codec", tell)
    network = train_network(edition, card, codec, course, run / "network", tell)
    probe = train_probe(edition, course, run / "probe", tell)
    output.mkdir(parents=True, exist_ok=True)
    ship(card.model_copy(update={"folder": output}), codec, network, probe)
    if output.resolve() != card.folder.resolve():
        for name in ("card.yaml", "words.yaml", str(card.edition)):
            shutil.copy(card.folder / name, output / name)
    return output
