"""The stages of post-training: what each learns from, by which losses, how fast and how long.

    method       stage   films                     losses                            rate             steps
    blockvid     1       windows of a few chunks   block forcing + self forcing      1e-4, then 5e-5  one epoch
                 2       whole videos              the same                          1e-4, then 5e-5  two epochs
    error-free   1       single chunks             flow, first frames given          1e-4, then 5e-5  one epoch
                 2       whole videos              flow; LoRA on keys and values of  1e-4, then 5e-5  two epochs
                                                   the second half of the blocks

BlockVid section 5.1 (AdamW, stepwise decay, weight decay 1e-4, chunk noise cosine) and Error-Free Long Video
Generation, sections 3.3 and 4.1. What the papers leave open (the weights of the two losses, the length of a window of
stage 1) is a field here, and its default is ours. The rows of BlockVid's Table 6, as we read them: Naive is {flow},
Self Forcing {flow, self-forcing}, Velocity Forcing {block-forcing}, and Ours {block-forcing, self-forcing}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from blockvid_cli.errors import UsageError, lookup
from blockvid_cli.training.objectives.flow_forcing import ForcingConfig
from blockvid_cli.training.objectives.self_forcing import GanConfig

LOSSES = ("flow", "block-forcing", "self-forcing", "dmd")
OPTIMIZERS = ("adamw", "adamw-8bit")


@dataclass(frozen=True)
class LoraConfig:
    """Args:
    rank: of each pair of matrices.
    alpha: the scale's numerator; the rank by default.
    targets: the linear layers of a block that get a pair, as diffusers names them.
    first_layer: the share of the blocks, from the first on, that get none.
    """

    rank: int = 16
    alpha: int | None = None
    targets: tuple[str, ...] = (
        "attn1.to_q",
        "attn1.to_k",
        "attn1.to_v",
        "attn1.to_out.0",
        "ffn.net.0.proj",
        "ffn.net.2",
    )
    first_layer: float = 0.0


@dataclass(frozen=True)
class StageConfig:
    """Args:
    name: ``1`` or ``2``.
    chunks: of a window; None for whole videos.
    losses: their weights by name.
    epochs: over the data, where ``steps`` is None.
    rate, late_rate: of learning, in the first and in the second half of the stage.
    batch: films of a batch on each process.
    accumulate: batches of a step.
    gamma, top: of block forcing.
    critic_steps: of the discriminator, or of dmd's critic, for one of the generator.
    """

    name: str
    chunks: int | None = None
    losses: Mapping[str, float] = field(default_factory=lambda: {"block-forcing": 1.0, "self-forcing": 1.0})
    epochs: float = 1.0
    steps: int | None = None
    rate: float = 1e-4
    late_rate: float = 5e-5
    weight_decay: float = 1e-4
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    batch: int = 1
    accumulate: int = 1
    ema_decay: float = 0.99
    forcing: ForcingConfig = field(default_factory=ForcingConfig)
    gan: GanConfig = field(default_factory=GanConfig)
    target: Literal["anchored", "paper"] = "anchored"
    gamma: float = 0.1
    top: int = 2
    critic_steps: int = 1
    lora: LoraConfig | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)  # over the card's

    def __post_init__(self) -> None:
        for name, weight in self.losses.items():
            lookup("loss", dict.fromkeys(LOSSES), name)
            if weight <= 0:
                raise UsageError(
                    f"the weight of the loss {name} is {weight:g}; leave the loss out, or give it more than 0."
                )
        if not self.losses:
            raise UsageError(f"stage {self.name} has no loss; give one of {', '.join(LOSSES)}.")
        for first, second in (("flow", "block-forcing"), ("self-forcing", "dmd")):
            if {first, second} <= set(self.losses):
                raise UsageError(f"{first} and {second} are two forms of one loss; give one of them.")


BLOCKVID = (
    StageConfig("1", chunks=4, epochs=1),
    StageConfig("2", chunks=None, epochs=2),
)
KV_LORA = LoraConfig(rank=16, targets=("attn1.to_k", "attn1.to_v"), first_layer=0.5)
ERROR_FREE = (
    StageConfig("1", chunks=1, losses={"flow": 1.0}, epochs=1),
    StageConfig("2", chunks=None, losses={"flow": 1.0}, epochs=2, lora=KV_LORA),
)
METHODS: dict[str, tuple[StageConfig, ...]] = {"blockvid": BLOCKVID, "error-free": ERROR_FREE}


def choose_stages(method: str, stage: str, changes: Mapping[str, Any]) -> list[StageConfig]:
    """The stages of a method, each with the same changes.

    Args:
        stage: ``1``, ``2`` or ``both``.

    Raises:
        UsageError: there is no such method or stage, or a change is out of range.
    """
    stages = lookup("method", METHODS, method)
    if stage not in ("1", "2", "both"):
        raise UsageError(f"--stage {stage}: give 1, 2 or both.")
    return [replace(config, **changes) for config in stages if stage in (config.name, "both")]
