"""Trains the bundled model from nothing: VAE, latents of many stories, network, probe; each phase is resumable."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from safetensors.torch import save_file
from torch import nn

from blockvid_cli.datasets.storybook import StoryClips, StoryLatents, encode_stories
from blockvid_cli.errors import lookup
from blockvid_cli.files import check_own_folder
from blockvid_cli.models.card import ModelCard
from blockvid_cli.models.find import find_model
from blockvid_cli.models.loading import load_text_encoder
from blockvid_cli.models.tiny_vae import TinyVAE, fit_principal, fold
from blockvid_cli.models.wan.denoiser import WanDenoiser
from blockvid_cli.models.wan.networks import WanTransformer3DModel
from blockvid_cli.rollout.recipe import Recipe, make_recipe, merge_recipes
from blockvid_cli.storybook.edition import Edition, read_edition
from blockvid_cli.storybook.probe import Probe
from blockvid_cli.storybook.stories import HELD_OUT, Story, make_story, opening_story
from blockvid_cli.training.objectives.probe_classification import LabelledClips, ProbeClassification
from blockvid_cli.training.objectives.reconstruction import Reconstruction
from blockvid_cli.training.objectives.teacher_forcing import DataSplit, DiffusionForcing, OwnRollout, TeacherForcing
from blockvid_cli.training.trainer import Notify, TrainerConfig, muon_and_adamw, train

OPENINGS = 2_000_000  # the first seed of first blocks
PROBE_STORIES = 3_000_000  # the first seed of stories that the probe learns from
ADAMW_MODULES = ("condition_embedder", "patch_embedding", "proj_out", "scale_shift_table")  # outside Wan's blocks

OBJECTIVES: dict[str, type[TeacherForcing]] = {
    "own-rollout": OwnRollout,
    "teacher-forcing": TeacherForcing,
    "diffusion-forcing": DiffusionForcing,
}

# The network learns with more context than the card's recipe shows it: with two chunks retrieved from any shot. The
# recipe retrieves one, and from other shots alone, because so small a network sometimes generated a subject twice where
# this shot's past showed it in another position.
TRAINING_RECIPE: Mapping[str, Any] = {"kv_cache": {"top": 2, "other_shots_only": False}}


@dataclass(frozen=True)
class TrainConfig:
    """The amounts of data and steps of each phase; ``recipe`` is put over the card's while the network is trained."""

    vae_steps: int = 1800
    vae_stories: int = 240
    vae_blocks: int = 12
    stories: int = 350
    story_blocks: int = 24
    openings: int = 2000
    network_steps: int = 5400
    probe_stories: int = 400
    probe_steps: int = 800
    objective: str = "own-rollout"
    recipe: Mapping[str, Any] = field(default_factory=lambda: TRAINING_RECIPE)
    card: str = "storybook"  # a bundled model, or a folder with a card, an edition and its words
    seed: int = 0
    device: str = "cpu"


def train_vae(edition: Edition, card: ModelCard, config: TrainConfig, run: Path, notify: Notify) -> TinyVAE:
    """Trains the VAE and sets its latents' mean and deviation; returns it with averaged weights."""
    clips = StoryClips(edition, range(config.vae_stories), config.vae_blocks, config.device)
    held_out = StoryClips(edition, range(HELD_OUT, HELD_OUT + 24), config.vae_blocks, config.device)
    torch.manual_seed(config.seed)
    vae = TinyVAE.from_config(card.vae.config).to(config.device)
    fit_principal(vae, fold(clips.batch(torch.Generator().manual_seed(0), 24, 17)[0]).flatten(0, 1))
    vae = vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    optimizers = muon_and_adamw(vae, 4e-3, 1e-3, but=("linear",))
    train(Reconstruction(vae, clips, held_out, optimizers), TrainerConfig(config.vae_steps, hold=0.5), run, notify)
    _normalise_latents(vae, clips)
    return vae.eval()


@torch.no_grad()
def _normalise_latents(vae: TinyVAE, clips: StoryClips) -> None:
    """Sets mean and deviation of each latent channel, so that the network sees zero mean and unit variance."""
    frames, _ = clips.batch(torch.Generator().manual_seed(2), 48, 17)
    z, _ = vae.encoder(fold(frames).flatten(0, 1), len(frames), [])
    vae.mean.copy_(z.mean((0, 2, 3)))
    vae.std.copy_(z.std((0, 2, 3)))


def train_network(
    edition: Edition, card: ModelCard, vae: TinyVAE, config: TrainConfig, run: Path, notify: Notify
) -> WanTransformer3DModel:
    """Trains the network on the latents of stories; returns it with averaged weights."""
    recipe = make_recipe(merge_recipes(card.recipe, config.recipe))
    data, held_out = _network_data(edition, card, vae, recipe, config, run, notify)
    torch.manual_seed(config.seed)
    network = WanTransformer3DModel(**card.transformer.config)
    init_weights(network)
    nn.Module.to(network, config.device)  # diffusers' own ``to`` is not typed
    objective = OBJECTIVES[config.objective](
        WanDenoiser(network, card.transformer.predicts),
        vae,
        recipe,
        data,
        held_out,
        muon_and_adamw(network, 4.5e-3, 1.5e-3, but=ADAMW_MODULES),
    )
    train(objective, TrainerConfig(config.network_steps, hold=0.6), run, notify)
    return network.eval()


def _network_data(
    edition: Edition, card: ModelCard, vae: TinyVAE, recipe: Recipe, config: TrainConfig, run: Path, notify: Notify
) -> tuple[DataSplit, DataSplit]:
    """Training data and held-out data."""
    encoder = load_text_encoder(card)

    def encode(name: str, seeds: range, make: Callable[[int], Story]) -> StoryLatents:
        stories: Sequence[Story] = [make(seed) for seed in seeds]
        return encode_stories(edition, vae, encoder, recipe, stories, run / f"{name}.safetensors", notify)

    def story(seed: int) -> Story:
        return make_story(edition, seed, config.story_blocks)

    def opening(seed: int) -> Story:
        return opening_story(edition, seed)

    held_out = range(HELD_OUT, HELD_OUT + 40)
    return DataSplit(
        encode("openings", range(OPENINGS, OPENINGS + config.openings), opening),
        encode("stories", range(config.stories), story),
    ), DataSplit(encode("held-out-openings", held_out, opening), encode("held-out-stories", held_out, story))


def init_weights(network: WanTransformer3DModel) -> None:
    """Initial weights: no output, no influence of the prompt, gates of 0.3, little influence of the timestep."""
    with torch.no_grad():
        nn.init.zeros_(network.proj_out.weight)
        nn.init.zeros_(network.proj_out.bias)
        nn.init.normal_(network.condition_embedder.time_proj.weight, std=0.01)
        nn.init.zeros_(network.condition_embedder.time_proj.bias)
        network.scale_shift_table.zero_()
        for block in cast(Iterable[WanTransformerBlock], network.blocks):
            prompt_output = cast(nn.Linear, block.attn2.to_out[0])
            nn.init.zeros_(prompt_output.weight)
            nn.init.zeros_(prompt_output.bias)
            block.scale_shift_table.zero_()
            block.scale_shift_table[:, (2, 5)] = 0.3


def train_probe(edition: Edition, config: TrainConfig, run: Path, notify: Notify) -> Probe:
    """Trains the probe that recognises what frames show; returns it with averaged weights."""
    torch.manual_seed(config.seed)
    probe = Probe(edition)
    seeds = range(PROBE_STORIES, PROBE_STORIES + config.probe_stories)
    data = LabelledClips(probe, edition, seeds, config.story_blocks)
    held_out = LabelledClips(probe, edition, range(HELD_OUT, HELD_OUT + 40), config.story_blocks)
    optimizers = [torch.optim.AdamW(probe.parameters(), lr=2e-3)]
    train(ProbeClassification(probe, data, held_out, optimizers), TrainerConfig(config.probe_steps), run, notify)
    return probe.eval()


def save_weights(card: ModelCard, vae: TinyVAE, network: WanTransformer3DModel, probe: Probe) -> None:
    """Writes the weights beside the card, in half precision."""
    for file, module in ((card.vae.file, vae), (card.transformer.file, network), (card.probe, probe)):
        weights = {name: value.half().contiguous() for name, value in module.state_dict().items()}
        save_file(weights, card.folder / str(file))


def retrain(config: TrainConfig, run: Path, output: Path, notify: Notify) -> Path:
    """All phases; writes a folder with the card, its edition and all weights, and returns it.

    Raises:
        UsageError: there is no such objective, or a folder holds links.
        MissingModelError: there is no such card.
    """
    for folder in (run, output):
        check_own_folder(folder)
    lookup("objective", OBJECTIVES, config.objective)
    card = find_model(config.card)
    edition = read_edition(card.folder / str(card.edition))
    vae = train_vae(edition, card, config, run / "vae", notify)
    network = train_network(edition, card, vae, config, run / "network", notify)
    probe = train_probe(edition, config, run / "probe", notify)
    output.mkdir(parents=True, exist_ok=True)
    save_weights(card.model_copy(update={"folder": output}), vae, network, probe)
    if output.resolve() != card.folder.resolve():
        for name in ("card.yaml", "words.yaml", str(card.edition)):
            shutil.copy(card.folder / name, output / name)
    return output
