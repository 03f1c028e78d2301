"""Rewrites any caption into the sentence of the picture book that is nearest to it.

    "A little girl in a yellow coat jumps over puddles in the park."  ->  "A yellow person hops in the meadow by day."

A word of the picture book, or a synonym listed in ``words.yaml``, decides. Where a caption has none, subject, setting
and light stay as they were in the caption before; for the first caption the nearest by sentence embedding is taken
(nobody, where no subject is near). A colour belongs to a subject when it stands just before it; a subject of an earlier
chunk keeps its looks: its sentence then names no colour, and the network must take it from the KV cache.

A caption that is like none of the sentences that the picture book can draw is rewritten all the same, with a warning.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from pydantic import TypeAdapter

from blockvid_cli.errors import join_words, ranges, shorten
from blockvid_cli.models.card import ModelCard, read_fields, validated
from blockvid_cli.storyboard.plan import Plan, PlannedChunk
from blockvid_cli.storybook.edition import Edition, read_edition
from blockvid_cli.storybook.stories import (
    ACTION_PHRASES,
    LIGHT_PHRASES,
    SETTING_PHRASES,
    WEATHER_PHRASES,
    make_caption,
)

Names = Mapping[str, Sequence[str]]
Embed = Callable[[Sequence[str]], torch.Tensor]  # sentences -> unit vectors (sentences, D)
LEAST_COSINE = 0.3  # of a caption without a known word that still names a subject or a light
KNOWN_WORD = 0.15  # what a word of the vocabulary adds to a caption's likeness
LEAST_LIKENESS = 0.4  # of a caption that can be drawn; a test measures how many captions it takes for the other kind
EXAMPLES = 3  # captions that a warning about many of them names
NEAR = 3  # a colour belongs to the subject that follows within this many words
DIRECTIONS = {"left": "left", "right": "right", "up": "rise"}
ARTICLES = {"a", "an", "the"}
PREPOSITIONS = {"above", "across", "after", "at", "before", "below", "beside", "by", "in", "of", "on", "over", "with"}
TOWARDS = {"to", "toward", "towards", "further"}


@dataclass(frozen=True)
class Vocabulary:
    """Synonyms for the names of each list of an edition.

    ``empty`` are words for nobody, ``same`` refer to the subject before; ``motion`` are verbs that a direction may
    follow; what ``others`` do (camera, sun, mist ...) is no action of the subject. ``absent`` are things, places and
    actions that the picture book never shows, also where another is rendered in their place; ``views`` camera work.
    """

    subjects: Names
    colours: Names
    settings: Names
    lights: Names
    actions: Names
    empty: Sequence[str]
    same: Sequence[str]
    motion: Sequence[str]
    others: Sequence[str]
    absent: Sequence[str]
    views: Sequence[str]


@dataclass(frozen=True)
class Interpretation:
    """What a caption describes; no colour: a subject of an earlier chunk; no subject: nobody."""

    subject: str | None
    colour: str | None
    setting: str
    light: str
    action: str
    weather: tuple[str, ...]


@dataclass(frozen=True)
class Likeness:
    """How like a caption is to what can be drawn: the cosine and what known words add, and the nearest of it.

    ``missing`` are the words of the caption whose meaning the film cannot show.
    """

    score: float
    nearest: str
    missing: tuple[str, ...] = ()

    @property
    def drawable(self) -> bool:
        """Whether the film will show what the caption says."""
        return self.score >= LEAST_LIKENESS and not self.missing

    @property
    def reason(self) -> str:
        """What is missing, or else the nearest."""
        return f"it cannot draw: {', '.join(self.missing)}" if self.missing else f"nearest: {self.nearest}"


@dataclass
class CaptionRewriter:
    """Interprets the captions of a film in order and keeps subject, setting and light from one to the next."""

    edition: Edition
    vocabulary: Vocabulary
    embed: Embed
    setting: str = ""
    light: str = ""
    subject: str = ""
    colours: dict[str, str] = field(default_factory=dict)  # of each subject so far

    def __call__(self, text: str, style: str = "") -> str:
        """The picture book's sentence for one caption; a film's style may name setting and light."""
        scene = self.interpret(text, style)
        return make_caption(scene.subject, scene.colour, scene.setting, scene.light, scene.action, *scene.weather)

    def interpret(self, text: str, style: str = "") -> Interpretation:
        """What one caption describes."""
        words = _words(text)
        self._update_setting_and_light(words, text, style)
        match = self._first_match(words, self.vocabulary.subjects, self.edition.subjects)
        absent = not match and not _any(words, self.vocabulary.same) and _any(words, self.vocabulary.empty)
        self.subject = (
            (match and match[1]) or self.subject or self._nearest_name(text, "subjects", "a {}", LEAST_COSINE)
        )
        weather = tuple(WEATHER_PHRASES[name] for name in self.edition.weathers if name in words)
        if absent or not self.subject:
            return Interpretation(None, None, self.setting, self.light, "rest", weather)
        colour = self._colour(words, match[0] if match else 0, text)
        return Interpretation(self.subject, colour, self.setting, self.light, self._action(words), weather)

    def likeness(self, text: str) -> Likeness:
        """How like the next caption is to what can be drawn; asked before it is interpreted.

        A pronoun stands for the subject so far.
        """
        things, vectors = self._drawable
        if self.subject:
            pronouns = "|".join(self.vocabulary.same)
            text = re.sub(rf"\b({pronouns})\b", f"the {self.subject}", text, count=1, flags=re.IGNORECASE)
        words = _words(text)
        best = (vectors @ self.embed([text])[0]).max(0)
        known = _any(words, self.vocabulary.empty)
        for name in ("subjects", "settings", "lights"):
            known = known or bool(self._first_match(words, getattr(self.vocabulary, name), getattr(self.edition, name)))
        return Likeness(float(best.values) + KNOWN_WORD * known, things[int(best.indices)], tuple(self._missing(words)))

    def _missing(self, words: Sequence[str]) -> Iterator[str]:
        """What a film cannot show: an absent thing, a camera's move, a second or an unknown subject."""
        views = self.vocabulary.views if len(self.edition.cameras) == 1 else ()
        absent = [word for word in words if _any([word], self.vocabulary.absent) or _any([word], views)]
        yield from dict.fromkeys(absent)
        matches = [self._first_match([word], self.vocabulary.subjects, self.edition.subjects) for word in words]
        named = {match[1]: word for word, match in zip(words, matches, strict=True) if match}
        yield from [f"a second subject ({word})" for word in named.values() if word not in absent][1:]
        grammatical = _any(words, self.vocabulary.same) or _any(words, self.vocabulary.empty)
        if not named and not grammatical and not absent:
            yield from self._unknown_subject(words)

    def _unknown_subject(self, words: Sequence[str]) -> Iterator[str]:
        """The noun before the first verb of a caption that begins with an article, unless a place or a light is it."""
        known = [*self.vocabulary.others, *self.edition.weathers]
        for names, synonyms in (
            (self.edition.settings, self.vocabulary.settings),
            (self.edition.lights, self.vocabulary.lights),
        ):
            known += [*names, *(word for several in synonyms.values() for word in several)]
        phrase = list(itertools.takewhile(lambda word: word not in PREPOSITIONS, words))
        for noun, verb in itertools.pairwise(phrase[1:] if words[:1] and words[0] in ARTICLES else ()):
            if re.search(r"[^su]s$|ing$|ed$", verb):
                yield from [] if _any([noun, verb], known) else [noun]
                return

    @cached_property
    def _drawable(self) -> tuple[list[str], torch.Tensor]:
        """Names of what can be drawn, and unit vectors (things, D) of sentences that say it."""
        things: dict[str, str] = {}
        for place in (SETTING_PHRASES[name] for name in self.edition.settings):
            for subject in self.edition.subjects:
                for action in self.edition.actions:
                    things[f"A {subject} {ACTION_PHRASES[action]} {place}."] = f"a {subject} {place}"
            for light in self.edition.lights:
                things[f"Nobody is {place} {LIGHT_PHRASES[light]}."] = f"nobody {place} {LIGHT_PHRASES[light]}"
        return list(things.values()), self.embed(list(things))

    def _update_setting_and_light(self, words: Sequence[str], text: str, style: str) -> None:
        """Both are named by the caption, else by the style, else stay, else the nearest to the caption are taken."""
        style_words = re.findall(r"[a-z]+", style.lower())
        for name, synonyms, names in (
            ("setting", self.vocabulary.settings, self.edition.settings),
            ("light", self.vocabulary.lights, self.edition.lights),
        ):
            match = self._first_match(words, synonyms, names) or self._first_match(style_words, synonyms, names)
            if match:
                setattr(self, name, match[1])
        settings = {name: SETTING_PHRASES[name] for name in self.edition.settings}
        lights = {name: LIGHT_PHRASES[name] for name in self.edition.lights}
        self.setting = self.setting or self._nearest(text, settings)
        self.light = self.light or self._nearest(text, lights, LEAST_COSINE) or self.edition.lights[0]

    def _colour(self, words: Sequence[str], position: int, text: str) -> str | None:
        """The colour named with the subject at ``position``; of a new subject any colour named, else the nearest."""
        before = words[max(position - NEAR, 0) : position]
        match = self._first_match(before, self.vocabulary.colours, self.edition.colours)
        if not match and self.subject not in self.colours:
            match = self._first_match(words, self.vocabulary.colours, self.edition.colours)
        colour = match[1] if match else None
        if not colour and self.subject not in self.colours:
            colour = self._nearest_name(text, "colours", "a {} " + self.subject)
        self.colours[self.subject] = colour or self.colours[self.subject]
        return colour

    def _action(self, words: Sequence[str]) -> str:
        """The direction the subject moves in, else its first verb."""
        for position, word in enumerate(words):
            before = words[max(position - 2, 0) : position]
            moving = before and (_any(before[-1:], self.vocabulary.motion) or TOWARDS.intersection(before))
            if word in DIRECTIONS and moving and not self._done_by_others(words, position - 1):
                return DIRECTIONS[word]
        for position, word in enumerate(words):
            if word in DIRECTIONS or self._done_by_others(words, position):
                continue
            for name in self.edition.actions:
                if set(_verbs(word)).intersection((name, *self.vocabulary.actions.get(name, ()))):
                    return name
        return "rest"

    def _done_by_others(self, words: Sequence[str], position: int) -> bool:
        """Whether the verb at ``position`` is done by the camera, the sun ... and not by the subject."""
        return _any(words[max(position - 2, 0) : position], self.vocabulary.others)

    def _first_match(self, words: Sequence[str], synonyms: Names, names: Sequence[str]) -> tuple[int, str] | None:
        """Position and name of the first word that stands for one of ``names``."""
        for position, word in enumerate(words):
            for name in names:
                if any(form == name or form in synonyms.get(name, ()) for form in _nouns(word)):
                    return position, name
        return None

    def _nearest_name(self, text: str, names: str, phrase: str, least: float = -1.0) -> str:
        return self._nearest(text, {name: phrase.format(name) for name in getattr(self.edition, names)}, least)

    def _nearest(self, text: str, phrases: Mapping[str, str], least: float = -1.0) -> str:
        """The name whose phrase is nearest to the text; "" where no cosine is ``least`` or more."""
        vectors = self.embed([text, *phrases.values()])
        best = (vectors[1:] @ vectors[0]).max(0)
        return list(phrases)[int(best.indices)] if float(best.values) >= least else ""


def read_vocabulary(file: Path) -> Vocabulary:
    """The synonyms of an edition.

    Raises:
        MissingModelError: the file is damaged.
    """
    return validated(file, TypeAdapter(Vocabulary), read_fields(file))


def caption_rewriter(card: ModelCard, embed: Embed) -> CaptionRewriter:
    """The rewriter of a model that was trained on the picture book, before its first caption."""
    return CaptionRewriter(
        read_edition(card.folder / str(card.edition)), read_vocabulary(card.folder / "words.yaml"), embed
    )


def rewrite_prompts(plan: Plan, card: ModelCard, embed: Embed) -> Plan:
    """The plan with every chunk's prompt replaced by the picture book's sentence for its caption and style.

    Captions that the picture book cannot draw are warned of, and a style that changes nothing.
    """
    rewrite, chunks, unlike = caption_rewriter(card, embed), [], dict[int, Likeness]()
    for chunk in plan.chunks:
        likeness = rewrite.likeness(chunk.caption)
        sentence = rewrite(chunk.caption, _style(chunk))
        chunks.append(replace(chunk, prompt=sentence, rewritten=sentence != chunk.caption))
        if not likeness.drawable:
            unlike[chunk.number] = likeness
            warning = f"the model cannot draw what the caption says ({likeness.reason})."
            chunks[-1] = replace(chunks[-1], warnings=(*chunk.warnings, warning))
    warnings = (*_unlike_warning(chunks, unlike, rewrite.edition), *_style_warning(plan, chunks, card, embed))
    warnings += (*_cut_warning([chunk for chunk in chunks if chunk.number not in unlike], rewrite.edition),)
    return replace(plan, chunks=tuple(chunks), warnings=(*plan.warnings, *warnings))


def _style(chunk: PlannedChunk) -> str:
    """The film's style, of a chunk whose prompt is not rewritten yet."""
    return chunk.prompt.removesuffix(chunk.caption).removesuffix(", ")


def _unlike_warning(chunks: Sequence[PlannedChunk], unlike: Mapping[int, Likeness], edition: Edition) -> Iterator[str]:
    """One sentence about all captions that cannot be drawn: what the film shows instead, and what to write."""
    if not unlike:
        return
    cases = [
        f"'{shorten(chunk.caption)}' becomes '{chunk.prompt}' ({unlike[chunk.number].reason})"
        for chunk in chunks
        if chunk.number in unlike
    ]
    more = [f"{len(cases) - EXAMPLES} more"] if len(cases) > EXAMPLES else []
    subjects = join_words(edition.subjects, "or")
    places = join_words([SETTING_PHRASES[name] for name in edition.settings], "or")
    yield (
        f"{ranges('chunk', list(unlike))}: this model cannot draw what the caption says:"
        f" {join_words([*cases[:EXAMPLES], *more])}. It draws a {subjects}, {places}; name them in the caption, in"
        " English, or give another --model."
    )


def _style_warning(plan: Plan, chunks: Sequence[PlannedChunk], card: ModelCard, embed: Embed) -> Iterator[str]:
    """A sentence, if all prompts are the same without the film's style."""
    style, rewrite = _style(plan.chunks[0]), caption_rewriter(card, embed)
    if style and all(rewrite(chunk.caption) == chunk.prompt for chunk in chunks):
        lights = join_words([LIGHT_PHRASES[name] for name in rewrite.edition.lights], "or")
        settings = join_words([SETTING_PHRASES[name] for name in rewrite.edition.settings], "or")
        yield (
            f"style: '{shorten(style)}' changes nothing: this model draws in one style, and reads from 'style' only a"
            f" place ({settings}) and a light ({lights}) that no caption names. Leave it out, or give another --model."
        )


def _cut_warning(chunks: Sequence[PlannedChunk], edition: Edition) -> Iterator[str]:
    """One sentence about all changes of subject or place inside a shot; nobody is no other subject."""
    changes, before, shot = list[str](), dict[str, str](), 0
    for chunk in chunks:
        words = _words(chunk.prompt)
        for what, names in (("subject", edition.subjects), ("place", edition.settings)):
            old = before.get(what, "")
            new = next((name for name in names if name in words), old)
            if chunk.shot == shot and old not in ("", new):
                changes.append(f"chunk {chunk.number}: the {what} changes from {old} to {new}")
            before[what] = new
        shot = chunk.shot
    if changes:
        more = [f"{len(changes) - EXAMPLES} more"] if len(changes) > EXAMPLES else []
        what = join_words([*changes[:EXAMPLES], *more])
        yield f"{what} without a cut, which this model does badly; add 'cut: true' there."


IRREGULAR = {"men": "man", "women": "woman", "children": "child", "geese": "goose", "wolves": "wolf"}


def _words(text: str) -> list[str]:
    """The words of a caption; what is written in two words or with a hyphen is one where it means one thing."""
    text = re.sub(r"\bno one\b", "nobody", text.lower())
    return re.findall(r"[a-z]+", re.sub(r"\b(close|time|bird's)[- ](up|lapse|eye)\b", r"closeup", text))


def _any(words: Sequence[str], known: Sequence[str]) -> bool:
    return any(form in known for word in words for form in (*_nouns(word), *_verbs(word)))


def _nouns(word: str) -> Iterator[str]:
    """A noun and its possible singulars."""
    yield IRREGULAR.get(word, word)
    if word.endswith("ies"):
        yield word[:-3] + "y"
    if word.endswith("s") and len(word) > 3:
        yield word[:-1]
        if word.endswith("es"):
            yield word[:-2]


def _verbs(word: str) -> Iterator[str]:
    """A verb, and what may be its infinitive."""
    yield from _nouns(word)
    for ending in ("ing", "ed"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 1:
            yield stem
            yield stem + "e"
            if stem[-1] == stem[-2]:
                yield stem[:-1]
