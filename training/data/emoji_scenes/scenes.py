"""Scenes of emoji on a background, with exact masks: the small world in which every part of SeTok can be trained.

A scene is a `Layout` (what lies where) and its rendering. All arithmetic on pixels is on integers, so that a seed gives
the same bytes on every machine.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from ..composition import Composition, check_objects, compose, fit_sizes, mask_boxes, place
from .redrawing import redrawn_sprite
from .sprites import STYLES, concept_names, sprite

SPLITS = ("train", "validation", "test")
PALETTE = {
    "white": (240, 240, 236),
    "gray": (142, 145, 150),
    "black": (40, 41, 46),
    "red": (196, 76, 72),
    "orange": (230, 154, 88),
    "yellow": (240, 222, 132),
    "green": (122, 178, 116),
    "blue": (104, 150, 208),
    "purple": (152, 118, 188),
    "pink": (240, 178, 198),
    "brown": (130, 98, 76),
}
BACKGROUND_KINDS = ("flat", "gradient", "noise")
_REPEAT = 0.12  # of the scenes with more than one object have a repeated one: about a tenth of all
_GRADIENTS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)])
_NOISE_GRID = 9  # knots per side of the noise texture


@dataclass(frozen=True)
class SceneConfig:
    """What scenes look like.

    Args:
        image_size: side of the square image in pixels, at least 16.
        min_objects, max_objects: the number of objects is uniform in this range (inclusive, at most 12).
        object_size: range of the longer side of an object as a fraction of the image's side. Scenes with many objects
            take smaller ones, so that all fit.
        vocabulary: "tiny" (60 objects), "full" (144) or "large" (320).
        backgrounds: the kinds of background, each equally likely: "flat", "gradient", "noise".
        styles: who drew the emoji: "noto", "twemoji", "openmoji". A scene is drawn in one, each equally likely.
        redrawn: the part of the scenes whose objects each get other colours and lines (see `redrawn_sprite`).
    """

    image_size: int = 64
    min_objects: int = 1
    max_objects: int = 6
    object_size: tuple[float, float] = (0.24, 0.42)
    vocabulary: str = "tiny"
    backgrounds: tuple[str, ...] = BACKGROUND_KINDS
    styles: tuple[str, ...] = ("noto",)
    redrawn: float = 0.0

    def __post_init__(self):
        if self.image_size < 16:
            raise ValueError(f"image_size must be at least 16 pixels, not {self.image_size}")
        check_objects(self.image_size, self.min_objects, self.max_objects, self.object_size)
        concept_names(self.vocabulary)  # raises for an unknown name
        if not self.backgrounds or not set(self.backgrounds) <= set(BACKGROUND_KINDS):
            raise ValueError(f"backgrounds must be some of {BACKGROUND_KINDS}, not {self.backgrounds}")
        if not 0 <= self.redrawn <= 1:
            raise ValueError(f"redrawn must be a part of all scenes, from 0 to 1, not {self.redrawn}")
        if isinstance(self.styles, str) or not self.styles or not set(self.styles) <= set(STYLES):
            raise ValueError(f"styles must be a sequence of some of {', '.join(STYLES)}, not {self.styles!r}")


@dataclass(frozen=True)
class Background:
    """kind: one of `BACKGROUND_KINDS`; colour: a name in `PALETTE`; shift: added to the colour's three channels;
    variant: direction of the gradient, or seed of the noise."""

    kind: str
    colour: str
    shift: tuple[int, int, int] = (0, 0, 0)
    variant: int = 0


@dataclass(frozen=True)
class Placement:
    """An object with its upper left corner at pixel (x, y); its longer side is `size` pixels.

    redrawing: seed of its own colours and lines; None: as its style has them.
    """

    name: str
    x: int
    y: int
    size: int
    flip: bool = False
    redrawing: int | None = None


@dataclass(frozen=True)
class Layout:
    """What lies where, and in which of `sprites.STYLES` it is drawn; later objects lie over earlier ones.

    All edits give a new layout in the same style.
    """

    image_size: int
    background: Background
    objects: tuple[Placement, ...]
    style: str = "noto"

    def without(self, index: int) -> "Layout":
        """The layout less one object."""
        return replace(self, objects=self.objects[:index] + self.objects[index + 1 :])

    def replaced(self, index: int, name: str) -> "Layout":
        """Another object of the same size in the place of one, with the same centre where the image's edge allows."""
        old, objects = self.objects[index], list(self.objects)
        corner = []
        for axis, start in ((1, old.x), (0, old.y)):
            before = sprite(old.name, old.size, style=self.style)[1].shape[axis]
            after = sprite(name, old.size, style=self.style)[1].shape[axis]
            corner.append(min(max(start + (before - after) // 2, 0), self.image_size - after))
        objects[index] = replace(old, name=name, x=corner[0], y=corner[1])
        return replace(self, objects=tuple(objects))

    def recoloured(self, colour: str) -> "Layout":
        """The same background in another colour of `PALETTE`."""
        return replace(self, background=replace(self.background, colour=colour))


@dataclass(frozen=True, eq=False)
class Scene(Composition):
    """A rendered layout, its objects in the layout's order.

    Attributes:
        layout: the description from which it was rendered.
    """

    layout: Layout

    @property
    def has_held_out_pair(self) -> bool:
        """Whether two of its objects never occur together in training scenes."""
        return any(is_held_out_pair(a, b) for i, a in enumerate(self.names) for b in self.names[:i])


@cache
def is_held_out_pair(a: str, b: str) -> bool:
    """Whether objects named a and b never share a training scene: a fixed pseudo-random tenth of all pairs."""
    digest = hashlib.sha256("|".join(sorted((a, b))).encode()).digest()
    return a != b and int.from_bytes(digest[:8], "big") % 10 == 0


# What is drawn for a scene, the scene itself, a row of each task and what an evaluation asks beside them, has random
# numbers of its own. A number stays what it is for ever, and a new task takes a new one: else all data change.
STREAMS = {
    "scene": 0,
    "concepts": 1,
    "caption": 2,
    "question": 3,
    "text_to_image": 4,
    "edit": 5,
    "referring": 6,
    "two_images": 7,
    "text_only": 8,
    "conversation": 9,
    "presence": 10,
    "outlines": 11,
    "presence_evaluation": 12,
    "wordings": 13,
    "style": 14,
    "redrawing": 15,
    "placement": 16,
    "relation": 17,
    "relations": 18,
    "out_of_scope": 19,
    "places": 20,
    "two_captions": 21,
    "comparisons": 22,
}


def scene_rng(split: str, index: int, seed: int = 0, stream: str = "scene") -> np.random.Generator:
    """The random numbers of scene `index` for what `stream`, a name in `STREAMS`, draws."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    if stream not in STREAMS:
        raise ValueError(f"unknown stream {stream!r}; give it a number in STREAMS that no other has")
    if index < 0 or seed < 0:
        raise ValueError(f"index and seed must not be negative, got {index} and {seed}")
    return np.random.default_rng((seed, SPLITS.index(split), index, STREAMS[stream]))


def make_scene(split: str, index: int, config: SceneConfig | None = None, seed: int = 0) -> Scene:
    """Scene number `index` (any from 0 on) of a split: the same bytes whenever and wherever it is made.

    Pairs with `is_held_out_pair` never occur in split "train".
    """
    config = config or SceneConfig()
    style = config.styles[scene_rng(split, index, seed, "style").integers(len(config.styles))]
    layout = sample_layout(scene_rng(split, index, seed), config, split != "train", style)
    if config.redrawn:
        rng = scene_rng(split, index, seed, "redrawing")
        layout = _redrawn(rng, layout) if rng.random() < config.redrawn else layout
    return render(layout)


def render(layout: Layout) -> Scene:
    """Draws a layout. The masks follow from the drawing order."""
    image = _draw_background(layout.background, layout.image_size)
    sprites = [_drawn(placed, layout.style) for placed in layout.objects]
    masks, visible = compose(image, sprites, [(placed.x, placed.y) for placed in layout.objects])
    return Scene(
        image=image,
        masks=masks,
        names=[placed.name for placed in layout.objects],
        boxes=mask_boxes(masks),
        visible=visible,
        background=(layout.background.kind, layout.background.colour),
        layout=layout,
    )


def _drawn(placed: Placement, style: str) -> tuple[np.ndarray, np.ndarray]:
    if placed.redrawing is None:
        return sprite(placed.name, placed.size, placed.flip, style)
    return redrawn_sprite(placed.name, placed.size, placed.flip, style, placed.redrawing)


def _redrawn(rng: np.random.Generator, layout: Layout) -> Layout:
    seeds = rng.integers(2**31, size=len(layout.objects)).tolist()
    objects = (replace(placed, redrawing=seed) for placed, seed in zip(layout.objects, seeds, strict=True))
    return replace(layout, objects=tuple(objects))


def sample_layout(rng: np.random.Generator, config: SceneConfig, allow_held_out: bool, style: str) -> Layout:
    """A random layout in a style: every object lies inside the image and keeps most of its pixels (see `place`)."""
    background = Background(
        kind=config.backgrounds[rng.integers(len(config.backgrounds))],
        colour=list(PALETTE)[rng.integers(len(PALETTE))],
        shift=tuple(rng.integers(-6, 7, 3).tolist()),
        variant=int(rng.integers(2**31)),
    )
    count = int(rng.integers(config.min_objects, config.max_objects + 1))
    names = _sample_names(rng, count, config.vocabulary, allow_held_out)
    objects = fit_sizes(
        rng,
        count,
        config.object_size,
        config.image_size,
        arrange=lambda sizes: _place(rng, names, sizes, config.image_size, style),
        step=max(1, config.image_size // 64),  # so that resized sprites are found in the cache
    )
    return Layout(config.image_size, background, objects, style)


def _sample_names(rng: np.random.Generator, count: int, vocabulary: str, allow_held_out: bool) -> list[str]:
    """Distinct names, but for about a tenth of the scenes, in which one name occurs two or three times."""
    names, apart = concept_names(vocabulary), _held_out_matrix(vocabulary)
    allowed = np.ones(len(names), bool)
    chosen = []
    copies = int(rng.integers(2, 4)) if count > 1 and rng.random() < _REPEAT else 1
    while len(chosen) < count:
        candidates = np.flatnonzero(allowed)
        if not len(candidates):  # every name left is held out with one of the chosen
            return _sample_names(rng, count, vocabulary, allow_held_out)
        pick = int(candidates[rng.integers(len(candidates))])
        chosen += [names[pick]] * (copies if not chosen else 1)
        allowed[pick] = False
        if not allow_held_out:
            allowed &= ~apart[pick]
    chosen = chosen[:count]
    return [chosen[i] for i in rng.permutation(count)]


@cache
def _held_out_matrix(vocabulary: str) -> np.ndarray:
    names = concept_names(vocabulary)
    return np.array([[is_held_out_pair(a, b) for b in names] for a in names])


def _place(
    rng: np.random.Generator, names: list[str], sizes: list[int], image_size: int, style: str
) -> tuple[Placement, ...] | None:
    """The objects where they fit, or None where one finds no place."""
    flips = []

    def masks() -> Iterator[np.ndarray]:
        for name, size in zip(names, sizes, strict=True):
            flips.append(bool(rng.integers(2)))
            yield sprite(name, size, flips[-1], style)[1]

    corners = place(rng, masks(), image_size)
    if corners is None:
        return None
    placed = zip(names, corners, sizes, flips, strict=True)
    return tuple(Placement(name, x, y, size, flip) for name, (x, y), size, flip in placed)


def _draw_background(background: Background, size: int) -> np.ndarray:
    """(size, size, 3) uint8."""
    colour = np.clip(np.array(PALETTE[background.colour]) + background.shift, 0, 255)
    if background.kind == "flat":
        return np.broadcast_to(colour.astype(np.uint8), (size, size, 3)).copy()
    if background.kind == "gradient":  # from a darker to a lighter tone of the colour
        dark, light = colour * 13 // 16, colour + (255 - colour) * 3 // 16
        ramp = _ramp(size, background.variant % len(_GRADIENTS))[..., None]
        return ((dark * (1024 - ramp) + light * ramp) // 1024).astype(np.uint8)
    knots = np.random.default_rng(background.variant).integers(-17, 18, (_NOISE_GRID, _NOISE_GRID))
    weights = _interpolation(size)
    texture = (weights @ knots @ weights.T) // 128**2
    return np.clip(colour + texture[..., None], 0, 255).astype(np.uint8)


@cache
def _ramp(size: int, direction: int) -> np.ndarray:
    """(size, size) int from 0 to 1024 along one of eight directions."""
    position = 2 * np.arange(size) - (size - 1)
    dx, dy = _GRADIENTS[direction]
    ramp = dx * position[None, :] + dy * position[:, None]
    extent = (abs(dx) + abs(dy)) * (size - 1)
    return (ramp + extent) * 512 // extent


@cache
def _interpolation(size: int) -> np.ndarray:
    """(size, _NOISE_GRID) int: weights (of sum 128) that interpolate knots smoothly over `size` pixels."""
    position = np.arange(size) * (_NOISE_GRID - 1) / (size - 1)
    distance = np.clip(np.abs(position[:, None] - np.arange(_NOISE_GRID)), 0, 1)
    weights = np.rint(128 * (1 - distance**2 * (3 - 2 * distance))).astype(int)
    nearest = weights.argmax(1)
    weights[np.arange(size), nearest] += 128 - weights.sum(1)
    return weights
