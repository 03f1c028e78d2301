"""Captions of the picture book: many wordings for one picture."""

from __future__ import annotations

import random

SUBJECTS = {
    "swan": ("swan", "swan", "graceful swan", "big swan"),
    "boat": ("boat", "sailboat", "little boat", "sailing boat"),
    "car": ("car", "car", "little car", "motor car"),
    "balloon": ("balloon", "hot-air balloon", "balloon", "big balloon"),
}
SETTINGS = {
    "lake": ("on a misty lake", "on the lake", "on the calm water of a lake", "across a quiet lake"),
    "meadow": ("in a green meadow", "in the meadow", "among the meadow flowers", "in a grassy meadow"),
    "city": (
        "in a city street",
        "in the city",
        "in front of the tall city buildings",
        "on a street in the city",
    ),
    "desert": ("in the desert", "in a sandy desert", "among the desert dunes", "on the desert sand"),
}
LIGHTS = {
    "day": ("by day", "in daylight", "on a bright day", "in the sunshine", ""),
    "sunset": ("at sunset", "in the evening light", "as the sun sets", "at dusk"),
    "night": ("at night", "under the moon", "in the dark of night", "under the stars"),
}
ACTIONS = {
    "rest": ("rests", "sits still", "stays where it is", "comes to rest", "waits quietly", "pauses"),
    "left": ("glides to the left", "moves left", "drifts to the left", "travels left", "turns and goes left"),
    "right": (
        "glides to the right",
        "moves right",
        "drifts to the right",
        "travels right",
        "turns and goes right",
    ),
    "rise": ("rises into the air", "floats up", "climbs high", "soars upwards", "lifts off the ground"),
    "hop": ("hops up and down", "bounces", "jumps again and again", "hops happily", "bounces up and down"),
}
CAMERAS = {
    "left": ("as the camera pans left", "while the view drifts to the left"),
    "right": ("as the camera pans right", "while the view drifts to the right"),
}


def caption(
    dice: random.Random, subject: str, colour: str, setting: str, light: str, action: str, camera: str = "still"
) -> str:
    """One sentence that says it all, in one of several orders; a camera that stands still goes without saying."""
    who = f"{dice.choice(('A', 'The'))} {colour} {dice.choice(SUBJECTS[subject])}"
    where, when = dice.choice(SETTINGS[setting]), dice.choice(LIGHTS[light])
    does = dice.choice(ACTIONS[action])
    order = dice.randrange(4)
    if order == 0:
        words = f"{who} {does} {where} {when}"
    elif order == 1:
        words = f"{who} {where} {does} {when}"
    elif order == 2 and when:
        words = f"{when.capitalize()}, {who[0].lower() + who[1:]} {does} {where}"
    else:
        words = f"{where.capitalize()} {when}, {who[0].lower() + who[1:]} {does}"
    if camera != "still":
        words = f"{words} {dice.choice(CAMERAS[camera])}"
    return " ".join(words.replace(" ,", ",").split()) + "."
