"""Whether a film shows what its storyboard's captions ask for, chunk by chunk.

With CLIP (the vbench tier; Radford et al. 2021): the mean cosine of a chunk's frames and its caption. Without a
download, for films of the bundled picture book: the share of what the probe reads (subject, colour, setting, light,
action) that is as asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import cv2
import numpy as np

from blockvid_cli.errors import BlockvidError
from blockvid_cli.evaluation.backends.protocol import Texts
from blockvid_cli.video.reader import Frame, VideoInfo
from blockvid_cli.evaluation.metrics.consistency import looks
from blockvid_cli.evaluation.spans import Span, segments_at
from blockvid_cli.models.card import ModelCard
from blockvid_cli.models.find import find_model
from blockvid_cli.storyboard.storyboard import Storyboard

if TYPE_CHECKING:
    from blockvid_cli.storybook.probe import Probe
    from blockvid_cli.storybook.stories import Scene

BUNDLED = "storybook"
PROPORTIONS = 0.03  # by which a film's may differ from the picture book's


class Adherence(Protocol):
    """Reads a film beside its storyboard."""

    def see(self, frame: Frame) -> None:
        """The film's next frame."""

    def result(self) -> dict[str, Any]:
        """``value`` (the chunks' mean), or None for a ``reason``; ``chunks``, and who read them."""


def adherence(story: Storyboard, footage: VideoInfo, texts: Texts | None) -> Adherence:
    """Who reads the film: CLIP where there is one, else the probe where the film may be a picture book's."""
    spans = segments_at(footage.frames, footage.fps, [0.0, *(float(chunk.end) for chunk in story.chunks)])
    if texts:
        return ByClip(story, spans, texts)
    with suppress(BlockvidError):  # a model that is not here draws no picture book
        card = find_model(story.model or BUNDLED)
        if card.probe and abs(footage.size[0] / footage.size[1] * card.size[1] / card.size[0] - 1) <= PROPORTIONS:
            return ByProbe(story, spans, card)
    return Unread()


class Unread:
    """Nobody can read the film."""

    def see(self, frame: Frame) -> None:
        pass

    def result(self) -> dict[str, Any]:
        return {"value": None, "reason": "only_picture_books_without_clip", "chunks": []}


class ByClip:
    """See the module; Hessel et al. 2021 multiply the cosine by 2.5, which is left out here."""

    def __init__(self, story: Storyboard, spans: Sequence[Span], texts: Texts) -> None:
        self._captions = [chunk.caption for chunk in story.chunks][: len(spans)]
        self._spans, self._texts = spans, texts
        asked = texts.read(self._captions)
        self._asked = asked / np.linalg.norm(asked, axis=1, keepdims=True)
        self._found: list[list[float]] = [[] for _ in spans]

    def see(self, frame: Frame) -> None:
        for number, span in enumerate(self._spans):
            if span.first <= frame.number < span.end:
                self._found[number].append(float(looks(self._texts, [frame])[0] @ self._asked[number]))

    def result(self) -> dict[str, Any]:
        chunks = [
            {"chunk": number + 1, "caption": caption, "value": sum(found) / len(found) if found else None}
            for number, (caption, found) in enumerate(zip(self._captions, self._found, strict=True))
        ]
        return _of(chunks, self._texts.name)


class ByProbe:
    """See the module; keeps a few small frames of every chunk."""

    def __init__(self, story: Storyboard, spans: Sequence[Span], card: ModelCard) -> None:
        from blockvid_cli.storybook.probe import CLIP_FRAMES

        self._story, self._card = story, card
        self._wanted = [np.linspace(span.first, span.end - 1, CLIP_FRAMES).round().astype(int) for span in spans]
        self._frames: dict[int, np.ndarray] = {}

    def see(self, frame: Frame) -> None:
        if any(frame.number in wanted for wanted in self._wanted):
            self._frames[frame.number] = cv2.resize(frame.rgb, self._card.size, interpolation=cv2.INTER_AREA)

    def result(self) -> dict[str, Any]:
        import torch

        from blockvid_cli.models.registry import load_probe
        from blockvid_cli.models.sentence_encoder import embed
        from blockvid_cli.storybook.probe import half_size
        from blockvid_cli.storybook.caption_rewriter import caption_rewriter
        from blockvid_cli.storybook.stories import Scene

        probe, reader, chunks = load_probe(self._card), caption_rewriter(self._card, embed), []
        for number, (chunk, wanted) in enumerate(zip(self._story.chunks, self._wanted, strict=False), 1):
            said = reader.interpret(chunk.caption, self._story.style)
            colour = said.colour or reader.colours.get(said.subject or "", "")
            clip = torch.from_numpy(np.stack([self._frames[number] for number in wanted]))
            right = _right(
                probe,
                half_size(clip.permute(0, 3, 1, 2) / 255),
                Scene(said.subject, colour, said.setting, said.light),
                said.action,
            )
            value = sum(right.values()) / len(right)
            chunks.append({"chunk": number, "caption": chunk.caption, "value": value, "right": right})
        return _of(chunks, f"probe of {self._card.name}")


def _right(probe: Probe, clip: Any, scene: Scene, action: str) -> Mapping[str, float]:  # noqa: ANN401  (a tensor)
    """The share of frames (of the clip, for the action) that are read as asked, for each attribute."""
    read, truth = probe.read(clip[None]), probe.labels(scene)
    right = {name: float((read.frame_labels[name][0] == truth[name]).float().mean()) for name in truth if truth[name] >= 0}
    if scene.subject:
        right["action"] = float(probe.names["action"][int(read.action[0])] == action)
    return {name: round(share, 4) for name, share in right.items()}


def _of(chunks: list[dict[str, Any]], reader: str) -> dict[str, Any]:
    values = [chunk["value"] for chunk in chunks if chunk["value"] is not None]
    value = sum(values) / len(values) if values else None
    return {"value": value, "reason": None if values else "no_chunk_in_the_film", "backend": reader, "chunks": chunks}
