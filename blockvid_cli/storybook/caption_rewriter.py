"""Free captions land on the nearest thing the picture book can draw.

    "A little girl in a yellow coat jumps over puddles in the park."  ->  "A yellow person hops in the meadow by day."

A word of the picture book, or another word people have for the same (``words.yaml``), decides. Where a caption has
none, who, where and when stay as they were in the caption before; where there was none before, the nearest by sentence
embedding (nobody, where no subject is near). A colour belongs to a subject when it stands just before it; a subject
seen earlier keeps its looks: its sentence then names no colour, and the memory must tell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from blockvid_cli.models.card import ModelCard
from blockvid_cli.models.sentence_encoder import embed
from blockvid_cli.storyboard.plan import Plan
from blockvid_cli.storybook.edition import Edition, read_edition
from blockvid_cli.storybook.stories import LIGHT_PHRASES, SETTING_PHRASES, WEATHER_PHRASES, make_caption

Names = Mapping[str, Sequence[str]]
ALIKE = 0.3  # the least cosine at which a caption without a known word still speaks of a subject or a light
NEAR = 3  # a colour belongs to the subject that follows within so many words
DIRECTIONS = {"left": "left", "right": "right", "up": "rise"}
TOWARDS = {"to", "toward", "towards", "further"}


@dataclass(frozen=True)
class Vocabulary:
    """Other words for the names of each list of an edition.

    ``empty`` say that nobody is there, ``same`` that it is the subject before; ``motion`` are verbs that a direction
    may follow; what ``others`` do (camera, sun, mist ...) is no action of the subject.
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


@dataclass(frozen=True)
class Interpretation:
    """What a caption asks for; without a colour the subject is one that was seen before, without a subject nobody."""

    subject: str | None
    colour: str | None
    setting: str
    light: str
    action: str
    weather: tuple[str, ...]


@dataclass
class CaptionRewriter:
    """Reads the captions of a film in order, and remembers who, where and when."""

    edition: Edition
    words: Vocabulary
    setting: str = ""
    light: str = ""
    who: str = ""
    looks: dict[str, str] = field(default_factory=dict)  # the colour of each subject seen

    def __call__(self, text: str, style: str = "") -> str:
        """The picture book's sentence for one caption; a film's style may say where and when."""
        said = self.read(text, style)
        return make_caption(said.subject, said.colour, said.setting, said.light, said.action, *said.weather)

    def read(self, text: str, style: str = "") -> Interpretation:
        """What one caption asks for; see ``__call__``."""
        words = re.findall(r"[a-z]+", text.lower().replace("no one", "nobody"))
        self._place(words, text, style)
        here = self._first(words, self.words.subjects, self.edition.subjects)
        absent = not here and not _any(words, self.words.same) and _any(words, self.words.empty)
        self.who = (here and here[1]) or self.who or self._guess(text, "subjects", "a {}", ALIKE)
        weather = tuple(WEATHER_PHRASES[name] for name in self.edition.weathers if name in words)
        if absent or not self.who:
            return Interpretation(None, None, self.setting, self.light, "rest", weather)
        colour = self._colour(words, here[0] if here else 0, text)
        return Interpretation(self.who, colour, self.setting, self.light, self._action(words), weather)

    def _place(self, words: Sequence[str], text: str, style: str) -> None:
        """Where and when: said by the caption, by the style, before, or the nearest."""
        styled = re.findall(r"[a-z]+", style.lower())
        for name, known, drawable in (
            ("setting", self.words.settings, self.edition.settings),
            ("light", self.words.lights, self.edition.lights),
        ):
            said = self._first(words, known, drawable) or self._first(styled, known, drawable)
            if said:
                setattr(self, name, said[1])
        self.setting = self.setting or self._nearest(
            text, {name: SETTING_PHRASES[name] for name in self.edition.settings}
        )
        when = {name: LIGHT_PHRASES[name] for name in self.edition.lights}
        self.light = self.light or self._nearest(text, when, ALIKE) or self.edition.lights[0]

    def _colour(self, words: Sequence[str], place: int, text: str) -> str | None:
        """The colour said of the subject at ``place``; of one never seen, any that is said, or the nearest."""
        said = self._first(words[max(place - NEAR, 0) : place], self.words.colours, self.edition.colours)
        if not said and self.who not in self.looks:
            said = self._first(words, self.words.colours, self.edition.colours)
        colour = said[1] if said else None
        if not colour and self.who not in self.looks:
            colour = self._guess(text, "colours", "a {} " + self.who)
        self.looks[self.who] = colour or self.looks[self.who]
        return colour

    def _action(self, words: Sequence[str]) -> str:
        """What the subject does: where it moves to, else the first verb that is its own."""
        for place, word in enumerate(words):
            before = words[max(place - 2, 0) : place]
            moving = before and (_any(before[-1:], self.words.motion) or TOWARDS.intersection(before))
            if word in DIRECTIONS and moving and not self._others(words, place - 1):
                return DIRECTIONS[word]
        for place, word in enumerate(words):
            if word in DIRECTIONS or self._others(words, place):
                continue
            for name in self.edition.actions:
                if set(_verbs(word)).intersection((name, *self.words.actions.get(name, ()))):
                    return name
        return "rest"

    def _others(self, words: Sequence[str], place: int) -> bool:
        """Whether the verb at ``place`` is done by something that is no subject: the camera, the sun ..."""
        return _any(words[max(place - 2, 0) : place], self.words.others)

    def _first(self, words: Sequence[str], known: Names, drawable: Sequence[str]) -> tuple[int, str] | None:
        """Place and name of the first word that says one of the drawable names."""
        for place, word in enumerate(words):
            for name in drawable:
                if any(form == name or form in known.get(name, ()) for form in _nouns(word)):
                    return place, name
        return None

    def _guess(self, text: str, names: str, phrase: str, least: float = -1.0) -> str:
        return self._nearest(text, {name: phrase.format(name) for name in getattr(self.edition, names)}, least)

    @staticmethod
    def _nearest(text: str, phrases: Mapping[str, str], least: float = -1.0) -> str:
        """The name whose phrase means most nearly what the text means; "" where no cosine is ``least`` or more."""
        vectors = embed([text, *phrases.values()])
        best = (vectors[1:] @ vectors[0]).max(0)
        return list(phrases)[int(best.indices)] if float(best.values) >= least else ""


def read_vocabulary(file: Path) -> Vocabulary:
    """The words of an edition."""
    return Vocabulary(**yaml.safe_load(file.read_text("utf-8")))


def caption_rewriter(card: ModelCard) -> CaptionRewriter:
    """A reader for a model that draws the picture book, who has read nothing yet."""
    return CaptionRewriter(read_edition(card.folder / str(card.edition)), read_vocabulary(card.folder / "words.yaml"))


def rewrite_prompts(plan: Plan, card: ModelCard) -> Plan:
    """The plan with every chunk told, compared and drawn by the sentence that its caption stands for."""
    reader, chunks = caption_rewriter(card), []
    for chunk in plan.chunks:
        sentence = reader(chunk.caption, chunk.prompt.removesuffix(chunk.caption))
        chunks.append(replace(chunk, prompt=sentence, rewritten=sentence != chunk.caption))
    return replace(plan, chunks=tuple(chunks))


IRREGULAR = {"men": "man", "women": "woman", "children": "child", "geese": "goose", "wolves": "wolf"}


def _any(words: Sequence[str], known: Sequence[str]) -> bool:
    return any(form in known for word in words for form in (*_nouns(word), *_verbs(word)))


def _nouns(word: str) -> Iterator[str]:
    """A noun as the tables have it: itself, and its singular."""
    yield IRREGULAR.get(word, word)
    if word.endswith("ies"):
        yield word[:-3] + "y"
    if word.endswith("s") and len(word) > 3:
        yield word[:-1]
        if word.endswith("es"):
            yield word[:-2]


def _verbs(word: str) -> Iterator[str]:
    """A verb as the tables have it: itself, and without the endings of person, time and course."""
    yield from _nouns(word)
    for ending in ("ing", "ed"):
        stem = word.removesuffix(ending)
        if stem != word and len(stem) > 1:
            yield stem
            yield stem + "e"
            if stem[-1] == stem[-2]:
                yield stem[:-1]
