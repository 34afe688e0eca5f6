"""English for scenes: nouns, captions, and expressions that refer to one object."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from .scenes import Scene
from .sprites import atlas_entries

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
TEXTURES = {"flat": "plain", "gradient": "shaded", "noise": "mottled"}
CLEARLY_BIGGER = 1.5  # times the visible pixels: below this, neither of two objects is called bigger
CLEARLY_APART = 0.1  # of the image's side: below this, neither of two objects is called left of the other


def noun(name: str) -> str:
    """What one object of this name is called: "dog face", "bunch of grapes"."""
    return atlas_entries()[name]["noun"]


def plural(name: str) -> str:
    """What several are called: "dog faces", "bunches of grapes"."""
    return atlas_entries()[name]["plural"]


def a(phrase: str) -> str:
    """The phrase with its indefinite article."""
    return f"{'an' if phrase[0] in 'aeiou' and not phrase.startswith('uni') else 'a'} {phrase}"


def listing(phrases: Iterable[str]) -> str:
    """ "x", "x and y", "x, y and z"; "nothing" if there are none."""
    *first, last = list(phrases) or ["nothing"]
    return f"{', '.join(first)} and {last}" if first else last


def centres(scene: Scene) -> np.ndarray:
    """(n, 2) float64: x, y of the middle of each object's visible box, as a fraction of the image's side."""
    return (scene.boxes[:, :2] + scene.boxes[:, 2:]) / (2 * scene.layout.image_size)


def background(scene: Scene) -> str:
    """ "a plain blue background"."""
    kind, colour = scene.background
    return f"a {TEXTURES[kind]} {colour} background"


def from_top_to_bottom(scene: Scene) -> np.ndarray:
    """The numbers of a scene's objects in the order in which sentences name them, if they say no other. In a random
    order nobody can tell which comes next."""
    return np.argsort(centres(scene)[:, 1], kind="stable")


def caption(scene: Scene) -> str:
    """ "a bus, two dog faces and a pear on a plain blue background", from top to bottom."""
    counts = Counter(scene.names[i] for i in from_top_to_bottom(scene))
    things = [a(noun(name)) if n == 1 else f"{NUMBERS[n]} {plural(name)}" for name, n in counts.items()]
    return f"{listing(things)} on {background(scene)}"


def ordered_caption(scene: Scene) -> str:
    """ "from left to right, a dog face, a bus and a dog face on a plain blue background"."""
    order = np.argsort(centres(scene)[:, 0], kind="stable")
    return f"from left to right, {listing(a(noun(scene.names[i])) for i in order)} on {background(scene)}"


def placed_caption(scene: Scene) -> str:
    """ "an owl at the top left and a bus in the middle on a plain blue background"."""
    middles = centres(scene)
    things = (f"{a(noun(scene.names[i]))} {region(middles[i])}" for i in from_top_to_bottom(scene))
    return f"{listing(things)} on {background(scene)}"


def sentence(phrase: str) -> str:
    """The phrase with a capital letter and a full stop."""
    return f"{phrase[0].upper()}{phrase[1:]}."


def region(centre: np.ndarray) -> str:
    """Which ninth of the image a centre (x, y as fractions of the side) lies in: "at the top left", "in the middle"."""
    column, row = (["left", "", "right"][int(min(centre[0] * 3, 2))], ["top", "", "bottom"][int(min(centre[1] * 3, 2))])
    if row and column:
        return f"at the {row} {column}"
    return f"at the {row}" if row else f"on the {column}" if column else "in the middle"


def referring_expressions(scene: Scene) -> list[tuple[int, str]]:
    """(object, expression) of everything that can be named without doubt.

    "the dog face" where there is one; with several, "the dog face on the left" for one that lies clearly apart from
    the others on that side. May be empty where a scene holds only copies of one object close together.
    """
    where = centres(scene)
    found = []
    for name in dict.fromkeys(scene.names):
        members = np.array([i for i, other in enumerate(scene.names) if other == name])
        if len(members) == 1:
            found.append((int(members[0]), f"the {noun(name)}"))
            continue
        for axis, ends in enumerate((("on the left", "on the right"), ("at the top", "at the bottom"))):
            order = members[np.argsort(where[members, axis], kind="stable")]
            position = where[order, axis]
            for member, gap, end in (
                (order[0], position[1] - position[0], ends[0]),
                (order[-1], position[-1] - position[-2], ends[1]),
            ):
                if gap >= CLEARLY_APART:
                    found.append((int(member), f"the {noun(name)} {end}"))
    return found
