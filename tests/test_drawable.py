"""What a model can draw: captions that it cannot draw, a style without effect, pictures that contradict their caption.

``drawable_captions.txt`` are captions in free wording of what the picture book can draw, ``undrawable_captions.txt``
of what it cannot: business, science, food, other languages, emoji. The thresholds were chosen by these.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blockvid_cli.job import RenderRequest, prepare
from blockvid_cli.models.card import find_card
from blockvid_cli.models.sentence_encoder import embed
from blockvid_cli.storybook.caption_rewriter import LEAST_LIKENESS, caption_rewriter

HERE = Path(__file__).parent
REWRITER = caption_rewriter(find_card("storybook"), embed)  # it interprets nothing, so every caption is the first
STORY = """\
style: watercolour, soft light
chunks:
- {caption: Quarterly revenue grew., duration: 2}
- {caption: A white swan glides over the lake., duration: 2}
- {caption: It swims on., duration: 2}
- {caption: Ein roter Ballon steigt über der Wiese auf., duration: 2}
- {caption: 🦊🦊🦊, duration: 2}
"""


@pytest.fixture
def board(tmp_path) -> Path:
    """A storyboard of which the bundled model cannot draw three captions."""
    file = tmp_path / "story.yaml"
    file.write_text(STORY, encoding="utf-8")
    return file


def captions(name: str) -> list[str]:
    return (HERE / f"{name}_captions.txt").read_text(encoding="utf-8").splitlines()


def score(text: str) -> float:
    return REWRITER.likeness(text).score


def test_the_threshold_tells_captions_that_can_be_drawn_from_those_that_cannot():
    """Both kinds of error stay below 4 % of a few hundred captions, each read as the first of a film."""
    can, cannot = ({text: score(text) for text in captions(name)} for name in ("drawable", "undrawable"))
    assert len(can) > 200 and len(cannot) > 100
    alarms = [text for text, value in can.items() if value < LEAST_LIKENESS]
    misses = [text for text, value in cannot.items() if value >= LEAST_LIKENESS]
    print(f"{len(alarms)} of {len(can)} false alarms: {alarms}")
    print(f"{len(misses)} of {len(cannot)} misses: {misses}")
    assert len(alarms) / len(can) < 0.04
    assert len(misses) / len(cannot) < 0.04


def test_the_bundled_storyboards_and_the_books_own_captions_are_not_warned_of():
    for file in (HERE.parent / "storyboards").glob("*.yaml"):
        assert not prepare(RenderRequest(file)).plan.warnings, file.name


def test_a_pronoun_means_the_subject_before_and_nothing_where_there_is_none():
    rewriter = caption_rewriter(find_card("storybook"), embed)
    alone = rewriter.likeness("It waits.")
    rewriter("A red car drives through the city.")
    assert not alone.drawable and rewriter.likeness("It waits.").drawable


def test_one_sentence_names_all_captions_that_cannot_be_drawn_and_what_can_be(board):
    plan = prepare(RenderRequest(board)).plan
    (captions_, _) = plan.warnings
    assert captions_.startswith("chunks 1, 4-5: this model cannot draw what the caption says: 'Quarterly revenue")
    for words in ("becomes 'Nobody is", "nearest: a balloon", "a swan, boat, car, balloon, cat or person", "--model"):
        assert words in captions_
    assert [bool(chunk.warnings) for chunk in plan.chunks] == [True, False, False, True, True]
    assert "nearest to it is a balloon" in plan.chunks[3].warnings[0]


def test_a_style_without_effect_is_warned_of(board):
    def style_warnings(style: str) -> list[str]:
        board.write_text(STORY.replace("watercolour, soft light", style), encoding="utf-8")
        return [text for text in prepare(RenderRequest(board)).plan.warnings if text.startswith("style:")]

    (sentence,) = style_warnings("watercolour, soft light")
    assert "'watercolour, soft light' changes nothing" in sentence and "at night" in sentence
    assert not style_warnings("at night")
    assert not style_warnings('""')


def test_a_model_that_does_not_know_what_it_can_draw_says_nothing(board, model):
    plan = prepare(RenderRequest(board, model=str(model))).plan
    assert not plan.warnings and not any(chunk.warnings for chunk in plan.chunks)


def test_check_prints_the_warnings_before_what_was_rounded(board, blockvid):
    values = json.loads(blockvid("storyboard", "check", board, "--json").out)
    assert "cannot draw" in values["notes"][0] and "style:" in values["notes"][1]
    assert [bool(chunk["warnings"]) for chunk in values["chunks"]] == [True, False, False, True, True]
    assert "cannot draw" in " ".join(blockvid("storyboard", "check", board).out.split())


def test_a_render_warns_before_it_draws(board):
    events = []

    class Enough(Exception):
        pass

    def listen(event):
        events.append(event)
        if event.step:
            raise Enough

    from blockvid_cli.render import render

    with pytest.raises(Enough):
        render(prepare(RenderRequest(board)), listen)
    notes = [event.note for event in events if event.note]
    assert any("cannot draw what the caption says" in note for note in notes)
