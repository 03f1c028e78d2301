"""Whether a film shows what its storyboard's captions ask for, chunk by chunk.

With CLIP (the vbench tier; Radford et al. 2021): the mean cosine of a chunk's frames and its caption. Without a
download, for films of the bundled picture book: the share of attributes (subject, colour, setting, light, action) that
the probe reads as the caption says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np

from blockvid_cli.errors import BlockvidError
from blockvid_cli.evaluation.backends import TextImageEncoder
from blockvid_cli.evaluation.metrics.vbench import unit_embeddings
from blockvid_cli.evaluation.segments import Span
from blockvid_cli.models.card import ModelCard
from blockvid_cli.models.find import find_model
from blockvid_cli.storyboard.storyboard import Storyboard
from blockvid_cli.video.reader import Frame, VideoInfo

if TYPE_CHECKING:
    import torch

    from blockvid_cli.storybook.probe import Probe
    from blockvid_cli.storybook.stories import Scene

BUNDLED = "storybook"
MAX_PROPORTION_ERROR = 0.03  # by which a film's proportions may differ from the picture book's


class Adherence(Protocol):
    """Compares a film with its storyboard."""

    def update(self, frame: Frame) -> None:
        """Takes the film's next frame."""

    def result(self) -> dict[str, Any]:
        """``value`` (the chunks' mean), or None with a ``reason``; ``chunks``, and the backend."""


def make_adherence(
    story: Storyboard, spans: Sequence[Span], video: VideoInfo, texts: TextImageEncoder | None
) -> Adherence:
    """Returns CLIP's comparison where there is one, else the probe's where the film may be a picture book's.

    Args:
        spans: the frames of each chunk, as far as the film shows them.
    """
    if texts:
        return ClipAdherence(story, spans, texts)
    with suppress(BlockvidError):  # a model that is not on this machine is no picture book's
        card = find_model(story.model or BUNDLED)
        error = abs(video.size[0] / video.size[1] * card.size[1] / card.size[0] - 1)
        if card.probe and error <= MAX_PROPORTION_ERROR:
            return ProbeAdherence(story, spans, card)
    return NoAdherence()


class NoAdherence:
    """For films that nothing here can compare with captions."""

    def update(self, frame: Frame) -> None:
        pass

    def result(self) -> dict[str, Any]:
        return {"value": None, "reason": "only_picture_books_without_clip", "chunks": []}


class ClipAdherence:
    """The mean cosine of frames and caption; Hessel et al. 2021 multiply it by 2.5, which is left out here."""

    def __init__(self, story: Storyboard, spans: Sequence[Span], texts: TextImageEncoder) -> None:
        self._captions = [chunk.caption for chunk in story.chunks][: len(spans)]
        self._spans, self._texts = spans, texts
        embeddings = texts.encode_text(self._captions)
        self._embeddings = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        self._cosines: list[list[float]] = [[] for _ in spans]

    def update(self, frame: Frame) -> None:
        for number, span in enumerate(self._spans):
            if span.first <= frame.number < span.end:
                image = unit_embeddings(self._texts, [frame])[0]
                self._cosines[number].append(float(image @ self._embeddings[number]))

    def result(self) -> dict[str, Any]:
        chunks = [
            {"chunk": number, "caption": caption, "value": sum(cosines) / len(cosines) if cosines else None}
            for number, (caption, cosines) in enumerate(zip(self._captions, self._cosines, strict=True), start=1)
        ]
        return _result(chunks, self._texts.name)


class ProbeAdherence:
    """The share of attributes that the probe reads as the captions say; holds a few small frames of every chunk."""

    def __init__(self, story: Storyboard, spans: Sequence[Span], card: ModelCard) -> None:
        from blockvid_cli.storybook.probe import CLIP_FRAMES

        self._story, self._card = story, card
        self._samples = [np.linspace(span.first, span.end - 1, CLIP_FRAMES).round().astype(int) for span in spans]
        self._frames: dict[int, np.ndarray] = {}

    def update(self, frame: Frame) -> None:
        if any(frame.number in samples for samples in self._samples):
            self._frames[frame.number] = cv2.resize(frame.rgb, self._card.size, interpolation=cv2.INTER_AREA)

    def result(self) -> dict[str, Any]:
        import torch

        from blockvid_cli.models.loading import load_probe
        from blockvid_cli.models.sentence_encoder import embed
        from blockvid_cli.storybook.caption_rewriter import caption_rewriter
        from blockvid_cli.storybook.probe import half_size
        from blockvid_cli.storybook.stories import Scene

        probe, rewriter, chunks = load_probe(self._card), caption_rewriter(self._card, embed), []
        for number, (chunk, samples) in enumerate(zip(self._story.chunks, self._samples, strict=False), 1):
            meaning = rewriter.interpret(chunk.caption, self._story.style)
            colour = meaning.colour or rewriter.colours.get(meaning.subject or "", "")
            clip = torch.from_numpy(np.stack([self._frames[frame] for frame in samples]))
            scene = Scene(meaning.subject, colour, meaning.setting, meaning.light)
            right = _right_shares(probe, half_size(clip.permute(0, 3, 1, 2) / 255), scene, meaning.action)
            value = sum(right.values()) / len(right)
            chunks.append({"chunk": number, "caption": chunk.caption, "value": value, "right": right})
        return _result(chunks, f"probe of {self._card.name}")


def _right_shares(probe: Probe, clip: torch.Tensor, scene: Scene, action: str) -> Mapping[str, float]:
    """For each attribute the share of frames (F, 3, H, W) that are read right; for the action, 0 or 1."""
    reading, labels = probe.read(clip[None]), probe.labels(scene)
    right = {
        name: float((reading.frame_labels[name][0] == label).float().mean())
        for name, label in labels.items()
        if label >= 0
    }
    if scene.subject:
        right["action"] = float(probe.names["action"][int(reading.action[0])] == action)
    return {name: round(share, 4) for name, share in right.items()}


def _result(chunks: list[dict[str, Any]], backend: str) -> dict[str, Any]:
    values = [chunk["value"] for chunk in chunks if chunk["value"] is not None]
    value = sum(values) / len(values) if values else None
    return {"value": value, "reason": None if values else "no_chunk_in_the_film", "backend": backend, "chunks": chunks}
