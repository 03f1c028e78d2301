"""The whole way of post-training, in order: dataset -> stages -> trainer -> a model folder that ``render`` uses.

job = prepare(FinetuneRequest(Path("lv1m")))     reads and checks everything; loads no weights
folder = finetune(job)                           trains what is missing, writes runs/NAME/model

runs/NAME/job.json           what was asked for; a resumed run must be the same
runs/NAME/stage-1/           state, log, samples of a stage
runs/NAME/model/             card and weights
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save
from torch import nn

from blockvid_cli.datasets.cache import LatentCache, PromptCache, video_format
from blockvid_cli.datasets.films import WindowedFilms
from blockvid_cli.datasets.folder import ROWS_FILE, Dataset, Split, read_dataset
from blockvid_cli.datasets.preparation import missing_videos, rewrite
from blockvid_cli.errors import UsageError
from blockvid_cli.files import read_plain_json, read_regular_file
from blockvid_cli.models.card import FileRef, ModelCard
from blockvid_cli.models.devices import precision, resolve_device
from blockvid_cli.models.find import find_model
from blockvid_cli.models.hub import fingerprint, local_path
from blockvid_cli.models.loading import load_denoiser, wrap_network
from blockvid_cli.models.wan.denoiser import VideoDenoiser
from blockvid_cli.project.atomic_files import write_atomically
from blockvid_cli.rollout.recipe import make_recipe, merge_recipes
from blockvid_cli.training.checkpoints import ShardedCheckpoints
from blockvid_cli.training.distributed import World, barrier, full_state, join_world, leave_world, shard
from blockvid_cli.training.lora import add_lora, merge_lora, write_lora
from blockvid_cli.training.objectives.block_forcing import BlockForcingTarget, FlowTarget
from blockvid_cli.training.objectives.discriminator import Discriminator
from blockvid_cli.training.objectives.dmd import DistributionMatching
from blockvid_cli.training.objectives.flow_forcing import FlowForcing
from blockvid_cli.training.objectives.post_training import PostTraining
from blockvid_cli.training.objectives.self_forcing import SelfForcing
from blockvid_cli.training.stages import StageConfig, choose_stages
from blockvid_cli.training.trainer import Notify, TrainerConfig, train

JOB_FILE = "job.json"
MAX_JOB_BYTES = 1_000_000


@dataclass(frozen=True)
class FinetuneRequest:
    """What a person asks for.

    Args:
        data: the dataset folder.
        model: a bundled model's name, or a folder with a card.
        run: where states, logs and the trained model go.
        stage: ``1``, ``2`` or ``both``.
        changes: fields of ``StageConfig`` that replace those of every stage.
        resume: continue a run that exists; without it, a run that exists is refused.
    """

    data: Path
    model: str = "storybook"
    run: Path = Path("runs/finetune")
    method: str = "blockvid"
    stage: str = "both"
    changes: Mapping[str, Any] = field(default_factory=dict)
    device: str = "auto"
    seed: int = 0
    resume: bool = False


@dataclass(frozen=True)
class FinetuneJob:
    """A request that was read and checked: nothing is loaded yet."""

    request: FinetuneRequest
    dataset: Dataset
    card: ModelCard
    stages: tuple[StageConfig, ...]
    device: str
    latents: LatentCache
    prompts: PromptCache
    world: World = field(default_factory=World)

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the weights that come out."""
        request = self.request
        return {
            "data": {name: _rows_hash(split) for name, split in self.dataset.splits.items()},
            "model": {"name": self.card.name, "weights": fingerprint(self.card)},
            "method": request.method,
            "stages": [json.loads(json.dumps(asdict(stage))) for stage in self.stages],
            "seed": request.seed,
        }


def prepare(request: FinetuneRequest, write: bool = True) -> FinetuneJob:
    """Reads and checks a request; with ``write`` the run's folder then says what was asked for.

    Raises:
        UsageError: the dataset, the model or an option is wrong, the dataset is not prepared for this model, or the run
            exists and is another one.
    """
    dataset = read_dataset(request.data)
    card = find_model(request.model)
    form = video_format(dataset.settings, card)
    job = FinetuneJob(
        request=request,
        dataset=dataset,
        card=card,
        stages=tuple(choose_stages(request.method, request.stage, request.changes)),
        device=resolve_device(request.device),
        latents=LatentCache(dataset.root, card, form),
        prompts=PromptCache(dataset.root, card),
    )
    _check_prepared(job)
    _check_run(job, write)
    return job


def _check_prepared(job: FinetuneJob) -> None:
    missing = missing_videos(job.dataset, job.latents)
    if missing:
        raise UsageError(
            f"{job.dataset.root}: {missing} videos are not prepared for the model '{job.card.name}' yet;"
            f" run 'blockvid data prepare {job.dataset.root} --model {job.request.model}'."
        )


def _check_run(job: FinetuneJob, write: bool) -> None:
    """Refuses a run that exists without ``resume``, or that was another one; writes what was asked for."""
    file = job.request.run / JOB_FILE
    if file.exists():
        values = read_plain_json(read_regular_file(file, MAX_JOB_BYTES))
        recorded = values if isinstance(values, dict) else {}
        differences = [key for key, value in job.identity.items() if recorded.get(key) != value]
        if differences:
            raise UsageError(
                f"{job.request.run} is a run with other {', '.join(differences)}; name another folder with --run."
            )
        if not job.request.resume:
            raise UsageError(f"{job.request.run} exists; continue it with --resume, or name another folder with --run.")
    if write:
        write_atomically(file, (json.dumps(job.identity, indent=1) + "\n").encode())


def finetune(job: FinetuneJob, notify: Notify = lambda figures: None) -> Path:
    """Trains all stages, each from the weights of the one before, and writes the model's folder; returns it.

    Raises:
        BlockvidError: with the exit code that fits; what was saved is kept, and ``resume`` continues it.
    """
    world = join_world(job.device)
    try:
        return _train_stages(replace(job, world=world, device=world.device(job.device)), notify)
    finally:
        leave_world()


def _train_stages(job: FinetuneJob, notify: Notify) -> Path:
    network = _load_trainable(job).network
    began, figures = time.monotonic(), {}
    for number, stage in enumerate(job.stages):
        if stage.lora:
            add_lora(network, stage.lora)
        shard(network, job.world)
        denoiser = wrap_network(job.card, network)
        objective, steps = build_stage(job, stage, denoiser, seed=job.request.seed + number)
        run = job.request.run / f"stage-{stage.name}"
        every = max(min(200, steps // 4), 1)
        config = TrainerConfig(
            steps=steps,
            warm_up=min(20, steps // 10),
            decay="stepwise",
            floor=stage.late_rate / stage.rate,
            ema_decay=stage.ema_decay,
            save_every=every,
            evaluate_every=every,
        )
        values: dict[str, float] = {}

        def report(latest: dict[str, float], stage: StageConfig = stage, values: dict[str, float] = values) -> None:
            values.update(latest)
            notify({"stage": float(stage.name), **latest})

        train(objective, config, run, report, ShardedCheckpoints(run, job.world), job.world)
        figures[stage.name] = values
        network = _finish_stage(job, stage, denoiser.network)
    folder = job.request.run / "model"
    if job.world.is_first:
        save_model(job, network, figures, time.monotonic() - began)
    barrier(job.world)
    return folder


def _load_trainable(job: FinetuneJob) -> VideoDenoiser:
    return load_denoiser(job.card, job.device, precision("fp32", job.device), trainable=True)


def _finish_stage(job: FinetuneJob, stage: StageConfig, network: nn.Module) -> nn.Module:
    """The network of the next stage, whole: with the averaged weights of this one, its LoRA written and merged."""
    weights = full_state(network)
    if stage.lora and job.world.is_first:
        write_lora(job.request.run / f"lora-{stage.name}.safetensors", weights, stage.lora)
    whole = _load_trainable(job).network
    if stage.lora:
        add_lora(whole, stage.lora)
    whole.load_state_dict(weights)
    if stage.lora:
        merge_lora(whole)
    return whole


def build_stage(job: FinetuneJob, stage: StageConfig, denoiser: VideoDenoiser, seed: int) -> tuple[PostTraining, int]:
    """The objective of a stage, and its number of steps."""
    films = _films(job, job.dataset.train, stage, seed)
    held_out = _films(job, job.dataset.held_out, stage, seed=0) if job.dataset.held_out else None
    for source in (films, held_out):
        if source is not None:
            source.prompts.device = job.device
    recipe = make_recipe(merge_recipes(job.card.recipe, stage.recipe))
    semantic = "block-forcing" in stage.losses
    target = BlockForcingTarget(stage.target, stage.gamma, stage.top) if semantic else FlowTarget()
    autocast = torch.bfloat16 if job.device != "mps" else None
    forcing = FlowForcing(denoiser, recipe, films, stage.forcing, target, held_out, autocast)
    adversary = _adversary(job, stage, forcing)
    weights = stage.losses
    objective = PostTraining(
        forcing,
        weights.get("flow", 0.0) + weights.get("block-forcing", 0.0),
        adversary,
        weights.get("self-forcing", 0.0) + weights.get("dmd", 0.0),
        lambda parameters: make_optimizer(stage, parameters),
        accumulate=stage.accumulate,
        critic_steps=stage.critic_steps,
    )
    steps = stage.steps or max(round(films.steps * stage.epochs / stage.accumulate), 1)
    return objective, steps


def _films(job: FinetuneJob, split: Split, stage: StageConfig, seed: int) -> WindowedFilms:
    return WindowedFilms(
        split,
        job.card,
        job.latents,
        job.prompts,
        rewrite,
        chunks=stage.chunks,
        size=stage.batch,
        seed=seed,
        rank=job.world.rank,
        ranks=job.world.ranks,
    )


def _adversary(job: FinetuneJob, stage: StageConfig, forcing: FlowForcing) -> SelfForcing | DistributionMatching | None:
    """The loss on the network's own films; its critic begins as a copy of the network."""
    torch.manual_seed(job.request.seed)
    if "self-forcing" in stage.losses:
        critic = Discriminator(_load_trainable(job)).to(job.device)
        shard(critic, job.world, "network.blocks")
        return SelfForcing(forcing, critic, stage.gan)
    if "dmd" in stage.losses:
        teacher = load_denoiser(job.card, job.device, precision("fp32", job.device))
        critic = _load_trainable(job)
        for network in (teacher.network, critic.network):
            shard(network, job.world)
        return DistributionMatching(forcing, teacher, critic)
    return None


def make_optimizer(stage: StageConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW, with moments of 32 bits or of 8 (bitsandbytes)."""
    betas = (0.9, 0.999)
    if stage.optimizer == "adamw-8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameters, lr=stage.rate, betas=betas, weight_decay=stage.weight_decay)
    return torch.optim.AdamW(parameters, lr=stage.rate, betas=betas, weight_decay=stage.weight_decay)


def save_model(job: FinetuneJob, network: nn.Module, figures: Mapping[str, Any], seconds: float) -> Path:
    """Writes a model folder: the trained transformer, a card with its origin, and the base's other files."""
    folder = job.request.run / "model"
    weights = {name: value.detach().cpu().half().contiguous() for name, value in network.state_dict().items()}
    write_atomically(folder / "transformer.safetensors", save(weights))
    values = job.card.model_dump(mode="json", exclude={"folder", "origin"}, exclude_none=True, exclude_defaults=True)
    values["name"] = job.request.run.name
    values["summary"] = f"{job.card.name}, post-trained on {job.dataset.settings.title or job.dataset.root.name}."
    values["transformer"] = {"file": "transformer.safetensors", "config": dict(job.card.transformer.config)}
    values["transformer"]["predicts"] = job.card.transformer.predicts
    values["provenance"] = {
        "base": job.card.name,
        "data": f"{job.dataset.settings.title or job.dataset.root.name}: {len(job.dataset.train)} videos",
        "licence of the data": job.dataset.settings.license,
        "stages": [_stage_facts(stage, figures.get(stage.name, {})) for stage in job.stages],
        "compute": f"{seconds / 3600:.2f} hours on {job.device}",
    }
    for part in _local_parts(job.card):
        if not part.repository:
            source = local_path(job.card, part)
            if source.is_dir():
                shutil.copytree(source, folder / part.file, dirs_exist_ok=True)
            elif source.exists():
                (folder / part.file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, folder / part.file)
    write_atomically(folder / "card.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())
    return folder


def _local_parts(card: ModelCard) -> list[FileRef]:
    """The files that lie beside the card and are not the transformer."""
    named = [card.vae, FileRef(file=card.text.file), FileRef(file=card.text.tokenizer)]
    named += [FileRef(file=file) for file in (card.edition, card.probe, "words.yaml") if file]
    return [part for part in named if part.file]


def _stage_facts(stage: StageConfig, figures: Mapping[str, float]) -> dict[str, Any]:
    """What a card says of a stage."""
    return {
        "stage": stage.name,
        "losses": dict(stage.losses),
        "chunks": stage.chunks or "whole videos",
        "steps": int(figures.get("step", 0)),
        "learning rate": f"{stage.rate:g}, then {stage.late_rate:g}",
        "figures": {name: round(float(value), 5) for name, value in figures.items()},
    }


def _rows_hash(split: Split) -> str:
    """A hash of a split's rows."""
    return hashlib.sha256(read_regular_file(split.folder / ROWS_FILE, 20_000_000_000)).hexdigest()
