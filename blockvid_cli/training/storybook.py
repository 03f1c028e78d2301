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

from blockvid_cli.card import ModelCard, find_card
from blockvid_cli.codec.tiny import TinyCodec, fit_principal, fold
from blockvid_cli.denoiser.wan import WanDenoiser
from blockvid_cli.storybook import world
from blockvid_cli.storybook.edition import Edition, read_edition
from blockvid_cli.storybook.world import Story
from blockvid_cli.text.encoders import text_encoder
from blockvid_cli.training.clips import StoryClips
from blockvid_cli.training.latents import StoryLatents, story_latents
from blockvid_cli.training.loop import Pace, adamw, muon_and_adamw, train
from blockvid_cli.training.objectives.reconstruction import Reconstruction
from blockvid_cli.training.objectives.teacher_forcing import Shelf, TeacherForcing
from blockvid_cli.zoo.load import wan_network

HELD_OUT = 1_000_000  # the first seed of stories that are never trained on

OPENINGS = 2_000_000  # the first seed of first blocks

Tell = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Course:
    """How much of everything."""

    codec_steps: int = 1500
    codec_stories: int = 320
    codec_blocks: int = 8
    stories: int = 600
    story_blocks: int = 18
    openings: int = 4000
    network_steps: int = 1900
    seed: int = 0


def train_codec(edition: Edition, course: Course, run: Path, tell: Tell) -> TinyCodec:
    """Trains the codec and sets its latents' mean and deviation; returns it with averaged weights."""
    clips = StoryClips(edition, range(course.codec_stories), course.codec_blocks)
    held_out = StoryClips(edition, range(HELD_OUT, HELD_OUT + 24), course.codec_blocks)
    torch.manual_seed(course.seed)
    codec = TinyCodec()
    fit_principal(codec, fold(clips.batch(torch.Generator().manual_seed(0), 24, 17)[0]).flatten(0, 1))
    codec = codec.to(memory_format=torch.channels_last)
    objective = Reconstruction(codec, clips, held_out)
    average = train(objective, adamw(codec, 1e-3), Pace(course.codec_steps), run, tell)
    average.swap(codec)
    _measure_latents(codec, clips)
    return codec.eval()


@torch.no_grad()
def _measure_latents(codec: TinyCodec, clips: StoryClips) -> None:
    """Sets mean and std of each latent channel, so that the network sees zero mean and unit variance."""
    frames, _ = clips.batch(torch.Generator().manual_seed(2), 48, 17)
    z, _ = codec.encoder(fold(frames).flatten(0, 1), len(frames), [])
    codec.mean.copy_(z.mean((0, 2, 3)))
    codec.std.copy_(z.std((0, 2, 3)))


def train_network(
    edition: Edition, card: ModelCard, codec: TinyCodec, course: Course, run: Path, tell: Tell
) -> WanTransformer3DModel:
    """Trains the network by teacher forcing on the latents of stories; returns it with averaged weights."""
    encoder = text_encoder(card.text)

    def encoded(stories: list[Story], name: str) -> StoryLatents:
        return story_latents(edition, codec, encoder, stories, run / f"{name}.pt", tell)

    def told(seeds: range) -> list[Story]:
        return [world.tell(edition, seed, course.story_blocks) for seed in seeds]

    def opened(seeds: range) -> list[Story]:
        return [world.opening(edition, seed) for seed in seeds]

    learnt = Shelf(
        encoded(opened(range(OPENINGS, OPENINGS + course.openings)), "openings"),
        encoded(told(range(course.stories)), "latents"),
    )
    held_out = Shelf(
        encoded(opened(range(HELD_OUT, HELD_OUT + 40)), "held-out-openings"),
        encoded(told(range(HELD_OUT, HELD_OUT + 40)), "held-out"),
    )
    torch.manual_seed(course.seed)
    network = wan_network(card.network.config)
    begin(network)
    objective = TeacherForcing(WanDenoiser(network), learnt, held_out)
    average = train(objective, muon_and_adamw(network, 4.5e-3, 1.5e-3), Pace(course.network_steps), run, tell)
    average.swap(network)
    return network.eval()


def begin(network: WanTransformer3DModel) -> None:
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


def ship(card: ModelCard, codec: TinyCodec, network: WanTransformer3DModel) -> None:
    """Writes the weights beside the card, in half precision."""
    for part, module in ((card.codec, codec), (card.network, network)):
        weights = {name: value.half().contiguous() for name, value in module.state_dict().items()}
        save_file(weights, card.path(part))


def retrain(course: Course, run: Path, output: Path, tell: Tell) -> Path:
    """All phases; writes a folder with the card and both weights, and returns it."""
    card, edition = find_card("storybook"), read_edition()
    codec = train_codec(edition, course, run / "codec", tell)
    network = train_network(edition, card, codec, course, run / "network", tell)
    output.mkdir(parents=True, exist_ok=True)
    ship(card.model_copy(update={"folder": output}), codec, network)
    if output.resolve() != card.folder.resolve():
        shutil.copy(card.folder / "card.yaml", output / "card.yaml")
    return output
