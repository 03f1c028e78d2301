"""The bundled model: what captions ask for is on the picture, read by its probe; the whole measure is

blockvid bench --model storybook --quality
"""

from __future__ import annotations

import json

import pytest
import torch

from blockvid_cli.evaluation.bench.quality import measure_quality, probe_accuracy
from blockvid_cli.models.card import find_card, packaged_folder
from blockvid_cli.models.loading import load_probe, load_vae
from blockvid_cli.models.vae import decode
from blockvid_cli.storybook.edition import read_edition
from blockvid_cli.storybook.rendering import render_story
from blockvid_cli.storybook.stories import HELD_OUT, make_story

EDITION = read_edition()


def test_the_shipped_weights_stay_below_forty_megabytes():
    assert sum(file.stat().st_size for file in (packaged_folder("models") / "storybook").iterdir()) < 40e6


def test_the_vae_reconstructs_held_out_stories():
    vae = load_vae(find_card("storybook"), "cpu")
    frames, subject = render_story(make_story(EDITION, HELD_OUT + 7, 6), EDITION)
    error = decode(vae, vae.encode(frames)) - frames
    of_subject = error[(subject > 0.5).expand_as(error)]
    psnr, psnr_subject = (-10 * torch.log10(e.square().mean()) for e in (error, of_subject))
    print(f"vae: {psnr:.1f} dB, subject {psnr_subject:.1f} dB")
    assert psnr > 33 and psnr_subject > 25


@pytest.mark.slow
def test_the_probe_recognises_rendered_stories():
    right = probe_accuracy(load_probe(find_card("storybook")), EDITION)
    print(json.dumps(right))
    assert min(right.values()) >= 0.98


@pytest.mark.slow
def test_captions_are_followed_to_the_last_second():
    figures = measure_quality("storybook", 8, 20)
    print(json.dumps(figures))
    right = figures["caption_accuracy"]
    assert min(right["setting"], right["colour"], right["action"]) >= 0.9
    assert min(right["subject"], right["light"]) >= 0.85
    assert min(figures["drift_ratio"].values()) >= 0.9
    assert figures["flicker"]["border_over_inner"] <= 1.7 * figures["flicker"]["world"]
    assert figures["return_accuracy"]["own_kv_cache"] > figures["return_accuracy"]["window"] + 0.3
