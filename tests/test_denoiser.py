"""The denoiser: ours equals diffusers' on the same weights; positions, biases and gradients of attention."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch.utils.checkpoint import checkpoint

from blockvid_cli.errors import UsageError
from blockvid_cli.models.flow_matching import add_noise, make_sigmas, predict_x0, shift_sigmas, velocity_from_x0
from blockvid_cli.models.wan.attention import CachedSelfAttnProcessor, TokenKV, attend
from blockvid_cli.models.wan.denoiser import WanDenoiser, coordinate_channels, timestep
from blockvid_cli.models.wan.rope import Rope, apply_rope, token_grid
from blockvid_cli.rollout.guidance import GuidedDenoiser
from blockvid_cli.rollout.kv_cache.base import KVView, resident_entry
from tests import small


def latents(frames: int, seed: int = 1, rows: int = 1) -> torch.Tensor:
    return torch.randn(rows, frames, *small.LATENT, generator=torch.Generator().manual_seed(seed))


def context(rows: int = 1, seed: int = 2) -> torch.Tensor:
    return torch.randn(rows, 5, 16, generator=torch.Generator().manual_seed(seed))


def test_first_block_equals_diffusers_forward():
    x, text = latents(3), context()
    stock = small.network()(x.transpose(1, 2), torch.tensor([700.0]), text, return_dict=False)[0].transpose(1, 2)
    ours, layers = small.denoiser()(x, torch.full((3,), 0.7), text, torch.arange(3), KVView(record=True))
    assert torch.allclose(ours, stock, atol=1e-6)
    assert len(layers) == 2 and layers[0].keys.shape == (1, 3 * 6, 2, 24)


def test_a_sigma_per_frame_equals_diffusers_timestep_per_token():
    x, text, sigma = latents(3), context(), torch.tensor([0.9, 0.5, 0.1])
    stock = small.network()(x.transpose(1, 2), (sigma * 1000).repeat_interleave(6)[None], text, return_dict=False)[
        0
    ].transpose(1, 2)
    ours, _ = small.denoiser()(x, sigma, text, torch.arange(3), KVView())
    assert torch.allclose(ours, stock, atol=1e-6)


def test_rows_denoised_in_turn_are_the_rows_denoised_together():
    x, text = torch.randn(1, 2, *small.LATENT), torch.cat([context(), context(seed=9)])
    arguments = (x, torch.full((2,), 0.6), text, torch.arange(2), KVView())
    together, layers = GuidedDenoiser(small.denoiser(), 3.0)(*arguments)
    in_turn, _ = GuidedDenoiser(small.denoiser(), 3.0, in_turn=True)(*arguments)
    assert torch.allclose(together, in_turn, atol=1e-5) and not layers  # recorded only where the view asks


def test_a_shared_sigma_is_a_scalar_timestep():
    assert timestep(torch.tensor([0.5, 0.5]).expand(3, -1), 6).tolist() == [500, 500, 500]
    assert timestep(torch.tensor([[0.5, 0.25]]), 2).tolist() == [[500, 500, 250, 250]]


def test_a_prompt_per_frame_equals_one_prompt_when_they_are_the_same():
    x, text = latents(2), context()
    once, _ = small.denoiser()(x, torch.full((2,), 0.7), text, torch.arange(2), KVView())
    each, _ = small.denoiser()(x, torch.full((2,), 0.7), text[:, None].expand(1, 2, 5, 16), torch.arange(2), KVView())
    other, _ = small.denoiser()(
        x, torch.full((2,), 0.7), torch.stack([text[0], context(seed=9)[0]])[None], torch.arange(2), KVView()
    )
    assert torch.allclose(once, each, atol=1e-6)
    assert not torch.allclose(once[:, 1], other[:, 1], atol=1e-3)


def test_rope_equals_diffusers_table():
    table = WanRotaryPosEmbed(24, (1, 2, 2), 64)
    cos, sin = table(torch.zeros(1, 4, 3, 4, 6))
    ours_cos, ours_sin = Rope(24).cos_sin(token_grid(3, 2, 3))
    assert torch.allclose(ours_cos[:, 0], cos[0, :, 0, 0::2], atol=1e-6)
    assert torch.allclose(ours_sin[:, 0], sin[0, :, 0, 1::2], atol=1e-6)


def test_rope_is_relative_and_composes():
    rope, x = Rope(24), torch.randn(1, 1, 2, 24)
    at = lambda t: rope.cos_sin(torch.tensor([[t, 0.0, 0.0]]))  # noqa: E731
    assert torch.allclose(apply_rope(apply_rope(x, at(2.5)), at(4.0)), apply_rope(x, at(6.5)), atol=1e-5)
    y = torch.randn(1, 1, 2, 24)
    near = (apply_rope(x, at(3.0)) * apply_rope(y, at(1.0))).sum()
    far = (apply_rope(x, at(103.0)) * apply_rope(y, at(101.0))).sum()
    assert torch.allclose(near, far, atol=1e-4)


def test_cached_keys_are_rotated_to_their_positions():
    """The rotation is computed once for as long as the positions stay the same, and again when they change."""
    rope, keys, where = Rope(24), torch.randn(1, 12, 2, 24), token_grid(2, 2, 3)
    view = KVView([resident_entry((0, 1), [TokenKV(keys, keys, where)])])
    tokens = view.read(0)
    once = view.rotated_keys(0, tokens, rope, torch.tensor([0.0, 1.0]))
    assert torch.equal(once, apply_rope(keys, rope.cos_sin(where)))
    assert view.read(0) is tokens and view.rotated_keys(0, tokens, rope, torch.tensor([0.0, 1.0])) is once
    assert not torch.allclose(once, view.rotated_keys(0, tokens, rope, torch.tensor([0.0, 5.0])))


def test_bias_of_merged_keys_is_exact():
    """m identical keys = one key with mean value and + log m on its logit."""
    q, k, v = torch.randn(1, 3, 2, 8), torch.randn(1, 1, 2, 8), torch.randn(1, 4, 2, 8)
    many = attend(q, k.expand(1, 4, 2, 8), v)
    one = attend(
        q,
        torch.cat([k, torch.randn(1, 1, 2, 8)], 1),
        torch.cat([v.mean(1, keepdim=True), v[:, :1]], 1),
        torch.tensor([4.0, 1e-30]).log(),
    )
    assert torch.allclose(many, one, atol=1e-5)


def test_explicit_attention_equals_fused():
    q, k, v = (torch.randn(2, 7, 2, 8) for _ in range(3))
    fused = attend(q, k, v)
    explicit = attend(q.clone().requires_grad_(), k, v)
    assert torch.allclose(fused, explicit, atol=1e-6)


def test_guidance_of_one_is_none():
    x, text = latents(2), torch.cat([context(), context(seed=5)])
    plain, _ = small.denoiser()(x, torch.full((2,), 0.6), text[:1], torch.arange(2), KVView())
    guided, layers = GuidedDenoiser(small.denoiser(), 1.0)(
        x, torch.full((2,), 0.6), text, torch.arange(2), KVView(record=True)
    )
    assert torch.allclose(plain, guided, atol=1e-6)
    assert layers[0].keys.shape[0] == 2
    stronger, _ = GuidedDenoiser(small.denoiser(), 3.0)(
        x, torch.full((2,), 0.6), text, torch.arange(2), KVView(record=True)
    )
    negative, _ = small.denoiser()(x, torch.full((2,), 0.6), text[1:], torch.arange(2), KVView())
    assert torch.allclose(stronger, negative + 3 * (plain - negative), atol=1e-5)


def test_coordinate_channels_differ_everywhere():
    channels = coordinate_channels(8, 4, 6)
    assert channels.shape == (8, 4, 6)
    pixels = channels.flatten(1).T
    assert (torch.cdist(pixels, pixels) + torch.eye(24)).min() > 0.05
    out, _ = WanDenoiser(small.network(extra=8))(latents(2), torch.ones(2), context(), torch.arange(2), KVView())
    assert out.shape == (1, 2, *small.LATENT)


def test_network_stays_diffusers():
    """Only the rotary module and processors differ: parameters and their names are diffusers'."""
    stock, ours = small.network(), small.denoiser().network
    assert [n for n, _ in stock.named_parameters()] == [n for n, _ in ours.named_parameters()]
    assert all(isinstance(block.attn1.processor, CachedSelfAttnProcessor) for block in ours.blocks)


@pytest.mark.parametrize("sigma", [0.0, 0.25, 1.0])
def test_flow(sigma: float):
    clean, noise = torch.randn(2, 3), torch.randn(2, 3)
    x = add_noise(clean, noise, sigma)
    assert torch.allclose(predict_x0(x, noise - clean, sigma), clean, atol=1e-6)


def test_predicted_clean_latents_become_the_velocity_that_leads_there():
    clean, noise, sigma = torch.randn(2, 3, 4, 5, 6), torch.randn(2, 3, 4, 5, 6), torch.tensor([1.0, 0.5, 0.1])
    each = sigma.view(3, 1, 1, 1)
    assert torch.allclose(velocity_from_x0(add_noise(clean, noise, each), clean, each), noise - clean, atol=1e-4)
    velocity = WanDenoiser(small.network())
    predicted = WanDenoiser(small.network(), "clean")
    x, text, times = torch.randn(1, 3, *small.LATENT), context(), torch.arange(3)
    out, _ = velocity(x, sigma, text, times, KVView())
    got, _ = predicted(x, sigma, text, times, KVView())
    assert torch.allclose(got, (x - out) / each, atol=1e-5)
    with pytest.raises(UsageError, match=r"transformer\.predicts"):
        WanDenoiser(velocity.network, "noise")


def test_sigmas_fall_from_noise_to_clean_and_shift_as_published():
    assert make_sigmas(4, 1.0) == (1.0, 0.75, 0.5, 0.25, 0.0)
    warped = [1000 * shift_sigmas(t / 1000, 5.0) for t in (1000, 750, 500, 250)]
    assert warped == pytest.approx([1000, 937.5, 833.333, 625], abs=1e-2)


def cached_view(bias: torch.Tensor | None = None, frames: int = 2, grad: bool = False) -> KVView:
    """Two frames of random cached tokens in both layers, of the small network's shape."""
    generator = torch.Generator().manual_seed(8)
    tokens = [
        TokenKV(
            *(torch.randn(1, frames * 6, 2, 24, generator=generator).requires_grad_(grad) for _ in range(2)),
            token_grid(frames, 2, 3),
            bias,
        )
        for _ in range(2)
    ]
    return KVView([resident_entry(range(frames), tokens)])


def attention_by_hand(q, k, v, bias):
    """softmax(q kᵀ / √d + bias) v for one head after another; bias (H, T)."""
    out = torch.zeros_like(q)
    for row in range(len(q)):
        for head in range(q.shape[2]):
            logits = q[row, :, head] @ k[row, :, head].T / q.shape[-1] ** 0.5 + bias[head]
            out[row, :, head] = logits.softmax(-1) @ v[row, :, head]
    return out


@pytest.mark.parametrize("grad", [False, True])
def test_a_bias_per_head_is_what_attention_by_hand_makes_of_it(grad):
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, n, 3, 8, generator=generator) for n in (4, 7, 7))
    bias = torch.randn(3, 7, generator=generator)
    query = q.clone().requires_grad_(grad)
    assert torch.allclose(attend(query, k, v, bias), attention_by_hand(q, k, v, bias), atol=1e-5)
    every = bias[:1].expand(3, -1)
    assert torch.allclose(attend(query, k, v, bias[0]), attention_by_hand(q, k, v, every), atol=1e-5)
    rows = torch.stack([bias, bias.flip(1)])
    by_row = torch.cat([attention_by_hand(q[i : i + 1], k[i : i + 1], v[i : i + 1], rows[i]) for i in (0, 1)])
    assert torch.allclose(attend(query, k, v, rows), by_row, atol=1e-5)


def test_a_bias_of_zero_is_none_and_of_minus_infinity_hides_a_token():
    x, text, sigma = latents(1), context(), torch.full((1,), 0.6)
    network = small.denoiser()
    none, _ = network(x, sigma, text, torch.arange(3), cached_view())
    for zeros in (torch.zeros(12), torch.zeros(2, 12)):
        zero, _ = network(x, sigma, text, torch.arange(3), cached_view(zeros))
        assert torch.allclose(none, zero, atol=1e-6)
    hidden, _ = network(x, sigma, text, torch.arange(3), cached_view(torch.full((12,), -torch.inf)))
    alone, _ = network(x, sigma, text, torch.arange(2, 3), KVView())
    assert torch.allclose(hidden, alone, atol=1e-6) and not torch.allclose(none, alone, atol=1e-3)


def test_the_context_of_attention_is_gone_after_a_pass_that_fails():
    denoiser, text = small.denoiser(), context()
    with pytest.raises(RuntimeError):
        denoiser(latents(2), torch.full((2,), 0.5), text[..., :-1], torch.arange(2), KVView())
    assert denoiser.rotary.context is None


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_over_attached_context_gives_the_same_gradients(reentrant):
    """Keys that were rotated and kept in the first pass are missing from the graph of the second."""
    x, text, sigma = latents(1).requires_grad_(), context(), torch.full((1,), 0.6)
    denoiser, gradients = small.denoiser(), []
    for checkpointed in (False, True):
        view = cached_view(grad=True)
        leaves = [
            x for layer in (0, 1) for x in (view.entries[0].layer(layer).keys, view.entries[0].layer(layer).values)
        ]

        def run(latents, view=view):
            return denoiser(latents, sigma, text, torch.arange(3), view)[0]

        out = checkpoint(run, x, use_reentrant=reentrant) if checkpointed else run(x)
        out.square().sum().backward()
        gradients.append([leaf.grad.clone() for leaf in leaves])
    assert all(torch.allclose(a, b, atol=1e-6) and a.abs().max() > 0 for a, b in zip(*gradients, strict=True))


def test_a_layer_that_is_checkpointed_is_recorded_once():
    denoiser, view = small.denoiser(), KVView(record=True)
    denoiser.network.enable_gradient_checkpointing()
    denoiser.network.train()
    out, layers = denoiser(latents(2).requires_grad_(), torch.full((2,), 0.6), context(), torch.arange(2), view)
    out.sum().backward()
    assert len(layers) == 2
