"""Reconstruction: the VAE learns to reproduce its input, subjects above all.

L = mean(w|e|) + 2 mean(w e²) + ½ (|∂x e| + |∂y e|) + 1e-3 mean z², with e the error, w = 1 + 4·subject, and noise of up
to 0.2 standard deviations on the latents, because the latents to be decoded are generated and not encoded.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from blockvid_cli.datasets.storybook import StoryClips
from blockvid_cli.models.tiny_vae import TinyVAE, fold
from blockvid_cli.training.objectives import Losses, LossPart, tile_rows

FRAMES = 9


class Reconstruction:
    """Seven steps in eight use crops around the subject, the others (and the last twentieth) whole frames."""

    def __init__(
        self, vae: TinyVAE, clips: StoryClips, held_out: StoryClips, optimizers: Sequence[torch.optim.Optimizer]
    ) -> None:
        self.vae, self.clips, self.held_out, self.optimizers = vae, clips, held_out, optimizers

    def losses(self) -> Sequence[LossPart]:
        """One part: the VAE."""
        return [LossPart("vae", self.vae, self.optimizers, self.loss)]

    def loss(self, step: int, progress: float) -> Losses:
        """The loss of a batch of clips, and its PSNR."""
        generator = torch.Generator().manual_seed(step)
        whole = step % 8 == 0 or progress > 0.95
        frames, subject = self.clips.batch(generator, 8 if whole else 16, FRAMES, crop=None if whole else (64, 80))
        x = fold(frames)
        weight = 1 + 4 * _fold_subject(subject)
        with torch.autocast(frames.device.type, torch.bfloat16):
            y, z = reconstruct(self.vae, x, noise=0.2, generator=generator)
        error = y.float() - x
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        loss = (weight * error.abs()).mean() + 2 * (weight * error**2).mean() + 0.5 * edges
        yield loss + 1e-3 * z.float().pow(2).mean(), {"psnr": psnr(error)}

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """PSNR in dB over held-out stories, of all pixels and of the subject's, and with noisy latents."""
        frames, subject = self.held_out.batch(torch.Generator().manual_seed(0), 12, 17)
        x, share = fold(frames), _fold_subject(subject)
        with torch.autocast(frames.device.type, torch.bfloat16):
            clean, _ = reconstruct(self.vae, x)
            noisy, _ = reconstruct(self.vae, x, noise=0.1, generator=torch.Generator().manual_seed(1))
        error = (clean.float() + 0.5).clamp(0, 1) - (x + 0.5)
        return {
            "psnr": psnr(error),
            "subject": psnr(error.expand_as(x)[(share > 0.5).expand_as(x)]),
            "noisy": psnr((noisy.float() + 0.5).clamp(0, 1) - (x + 0.5)),
        }

    @torch.no_grad()
    def sample(self) -> torch.Tensor:
        """Last frames of held-out clips above their reconstructions."""
        frames, _ = self.held_out.batch(torch.Generator().manual_seed(0), 4, FRAMES)
        with torch.autocast(frames.device.type, torch.bfloat16):
            folded, _ = reconstruct(self.vae, fold(frames))
        return tile_rows([frames[:, -1], folded[:, -1, -3:].float() + 0.5])


def reconstruct(
    vae: TinyVAE, x: torch.Tensor, noise: float = 0.0, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Folded clips (B, F, 12, H, W) through encoder and decoder at once; and the latents (B·F, C, h, w)."""
    clips = len(x)
    flat = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    z, _ = vae.encoder(flat, clips, [])
    noisy = z
    if noise:
        share = torch.rand(clips, 1, 1, 1, generator=generator) if generator else torch.ones(clips, 1, 1, 1)
        share = share.repeat_interleave(x.shape[1], 0).to(z.device)
        deviation = z.detach().float().std((0, 2, 3), keepdim=True)
        noisy = z + noise * share * deviation * torch.randn(z.shape, generator=generator).to(z.device)
    y, _ = vae.decoder(noisy.to(z.dtype), clips, [])
    return y.unflatten(0, (clips, -1)), z


def psnr(error: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of errors on a scale of 0..1."""
    return float(-10 * torch.log10(error.detach().float().pow(2).mean().clamp(min=1e-12)))


def _fold_subject(subject: torch.Tensor) -> torch.Tensor:
    """The subject's share of each pixel (B, F, 1, H, W) as a weight for folded clips (B, F', 12, H, W)."""
    start = subject[:, :1].expand(-1, 3, -1, -1, -1)
    return torch.cat([start, subject], 1).unflatten(1, (-1, 4)).repeat_interleave(3, 3).flatten(2, 3)
