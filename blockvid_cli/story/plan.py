"""The storyboard turned into blocks: which latent frames are drawn together, under which caption.

    seconds   0         4         8        12            (chunks of 4 s at 12 fps, blocks of 3 latents)
    frames    0 .. 45 ..... 93 ..... 141 ...            a block ends at frame 4·(latents - 1) + 1
    latents   |0 1 2|3 4 5|6 7 8|9 10 11|12 ...
    blocks    0     1     2     3       4               chunk 1 = blocks 0-3, chunk 2 = blocks 4-7, ...

The codec maps 1 + 4k frames to 1 + k latents, so the first latent of a film is one frame. Chunk borders are
rounded to the nearest block border (and that is said), the last one up, and the film is trimmed to its length.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """A group of latent frames that are denoised together."""

    number: int  # counted from 0 through the film
    chunk: int  # the chunk it belongs to, counted from 1
    shot: int  # the shot it belongs to, counted from 1
    first: int  # its first latent frame, counted from 0 through the film
    frames: int  # how many latent frames
    caption: str  # what the network reads: style, then caption
    negative: str  # what guidance steers away from
    seed: int  # the chunk's seed, a pure function of film seed, chunk and take


@dataclass(frozen=True)
class PlannedChunk:
    """A chunk with the blocks that draw it."""

    number: int  # counted from 1
    shot: int
    caption: str  # as written, without style
    start: float  # seconds, as asked
    end: float
    first_frame: int  # pixel frames, after rounding; end_frame is one past the last
    end_frame: int
    blocks: tuple[Block, ...]
    seed: int
    cut: bool


@dataclass(frozen=True)
class Plan:
    """All blocks of a film, in order."""

    chunks: tuple[PlannedChunk, ...]
    blocks: tuple[Block, ...]
    fps: float
    size: tuple[int, int]  # width, height in pixels
    latent: tuple[int, int, int]  # (C, H, W) of one latent frame
    frames: int  # pixel frames of the film after trimming
    seed: int
    notes: tuple[str, ...]  # what was rounded, one sentence each
