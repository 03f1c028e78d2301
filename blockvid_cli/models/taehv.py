"""TAEHV's decoder for Wan 2.1, a small convolutional stand-in for Wan's own: real detail and motion for 20 MB.

    latent    z                             16 x h x w     squashed to -3..3, 3x3 to 256 channels
    stage 1   3 memories, 2x in space       256 -> 128
    stage 2   3 memories, 2x, 2x in time    128 -> 64
    stage 3   3 memories, 2x, 2x in time     64 -> 64
    frames    f0 f1 f2 f3                    3 x 8h x 8w   of the film's first latent only f3 is kept

A memory sees the features of the frame before beside those of its own frame; that one map a memory is the whole state
of a stream. The layout (tensor names, shapes, order) and its arithmetic are those of the published ``taew2_1`` weights
(Ollin Boer Bohan, https://github.com/madebyollin/taehv, MIT licence), of which only the ``decoder.`` half is used. It
reads latents as networks write them, of zero mean and unit variance, and answers in 0..1: no mean, no deviation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.nn import functional as F

CHANNELS = 16  # of a latent
WIDTHS = (256, 128, 64, 64)  # before, between and after the stages
TIMES = (1, 2, 2)  # frames that a stage makes of one
MEMORIES = 3  # a stage
LIMIT = 3.0  # latents are squashed to this
UNSEEN = 3  # frames before the film's first, which the first latent also stands for

State = list[torch.Tensor | None]


def _wide(inner: int, outer: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, 3, padding=1, bias=bias)


class Squash(nn.Module):
    """Keeps outliers of the latents within -3..3, softly."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return LIMIT * torch.tanh(x / LIMIT)


class Memory(nn.Module):
    """A residual block of three convolutions that also sees the frame before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _wide(2 * width, width), nn.ReLU(), _wide(width, width), nn.ReLU(), _wide(width, width)
        )

    def forward(self, x: torch.Tensor, before: torch.Tensor | None) -> torch.Tensor:
        """x (F, C, H, W), frames that follow one another; before (1, C, H, W), or None at a film's start."""
        start = torch.zeros_like(x[:1]) if before is None else before
        past = torch.cat([start, x[:-1]])
        return F.relu(self.conv(torch.cat([x, past], 1)) + x)


class Grow(nn.Module):
    """Each frame (C, H, W) becomes ``times`` frames, which its convolution writes side by side into channels."""

    def __init__(self, width: int, times: int) -> None:
        super().__init__()
        self.times = times
        self.conv = nn.Conv2d(width, width * times, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).unflatten(1, (self.times, -1)).flatten(0, 1)


def _parts() -> Iterator[nn.Module]:
    """The decoder's parts in the published order, which numbers its tensors."""
    yield from (Squash(), _wide(CHANNELS, WIDTHS[0]), nn.ReLU())
    for number, times in enumerate(TIMES):
        width, following = WIDTHS[number : number + 2]
        yield from (Memory(width) for _ in range(MEMORIES))
        yield from (nn.Upsample(scale_factor=2), Grow(width, times), _wide(width, following, bias=False))
    yield from (nn.ReLU(), _wide(WIDTHS[-1], 3))


class TaehvDecoder(nn.Module):
    """See ``codec.stream.Decoder`` for the contract; random weights until a state is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(*_parts())

    def step(self, latent: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
        """One latent (1, 16, h, w) -> its four frames (4, 3, 8h, 8w), and the state that the next one starts from.

        ``state`` is empty at a film's start.
        """
        x, after = latent, []
        before = iter(state or [None] * MEMORIES * len(TIMES))
        for part in self.decoder:
            if isinstance(part, Memory):
                after.append(x[-1:])
                x = part(x, next(before))
            else:
                x = part(x)
        return x, after

    @torch.inference_mode()
    def stream(self, blocks: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """For each block of latents (F, 16, h, w), its frames (4F, 3, H, W) in 0..1; 4F - 3 for the film's first."""
        state: State = []
        first = True
        for block in blocks:
            frames = []
            for latent in block.to(self.decoder[1].weight):  # one at a time: the bits never depend on the block
                four, state = self.step(latent[None], state)
                frames.append(four)
            pictures = torch.cat(frames).float().clamp(0, 1)
            yield pictures[UNSEEN:] if first else pictures
            first = False
