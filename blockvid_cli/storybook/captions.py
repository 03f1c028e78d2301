"""The one sentence of the picture book for everything it can draw."""

from __future__ import annotations

WHERE = {"lake": "on the lake", "meadow": "in the meadow", "city": "in the city", "desert": "in the desert"}
WHEN = {"day": "by day", "sunset": "at sunset", "night": "at night"}
DOES = {"rest": "rests", "left": "moves left", "right": "moves right", "rise": "rises", "hop": "hops"}
CAMERAS = {"still": "", "left": "as the camera pans left", "right": "as the camera pans right"}
WEATHERS = {"clear": "", "rain": "in the rain", "snow": "in the snow"}


def caption(subject: str | None, colour: str | None, setting: str, light: str, action: str, *more: str) -> str:
    """The sentence the network reads; without a colour the subject is one that was seen before.

    ``more`` are phrases of weather and camera, where an edition has them.

    >>> caption("swan", "white", "lake", "sunset", "left")
    'A white swan moves left on the lake at sunset.'
    """
    place = " ".join(part for part in (WHERE[setting], WHEN[light], *more) if part)
    if subject is None:
        return f"Nobody is {place}."
    who = f"A {colour} {subject}" if colour else f"The {subject}"
    return f"{who} {DOES[action]} {place}."
