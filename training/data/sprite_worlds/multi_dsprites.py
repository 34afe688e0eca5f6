"""Multi-dSprites, "coloured sprites and background": pictures of 64 pixels with one to four sprites.

What its description says (google-deepmind/multi_object_datasets, and dSprites, from which the sprites come):

- each scene has 1 to 4 sprites, ovals, hearts or squares, with some occlusions, on a background of one colour; all
  colours are random RGB values;
- a sprite has one of 6 scales, evenly from 0.5 to 1, one of 40 orientations of the full turn, and one of 32 places in
  either axis; no edge is smoothed.

What is chosen here, because the description leaves it open: the number of sprites and all factors are uniform and
independent; the sprites' outlines; a place is a pixel corner from 16 to 47, so that every sprite is wholly inside
(scale 1 is 16 pixels from the centre to the farthest point); a wholly covered sprite is no object of the scene; a
sprite may by chance have nearly the colour of what is behind it, as in the original.
"""

from fractions import Fraction

import numpy as np

from .scenes import SpriteScene, SpriteWorld, paint

IMAGE_SIZE = 64
SCALES = tuple(Fraction(tenth, 10) for tenth in range(5, 11))
ORIENTATIONS = 40
PLACES = range(16, 48)
MAX_SPRITES = 4
_REACH = 16  # pixels from the centre to the farthest point at scale 1
_UNIT = 1 << 12  # of sines, which are rounded: every machine draws the same pixels


class MultiDSprites(SpriteWorld):
    """The world; see `SpriteWorld` for its arguments, and the file for what it follows."""

    def _draw(self, rng: np.random.Generator) -> SpriteScene:
        background = rng.integers(256, size=3, dtype=np.uint8)
        sprites = []
        for _ in range(rng.integers(1, MAX_SPRITES + 1)):
            name = list(SHAPES)[rng.integers(len(SHAPES))]
            scale = SCALES[rng.integers(len(SCALES))]
            orientation = int(rng.integers(ORIENTATIONS))
            x, y = (PLACES[place] for place in rng.integers(len(PLACES), size=2))
            colour = rng.integers(256, size=3, dtype=np.uint8)
            sprites.append((name, sprite_mask(name, scale, orientation, x, y), colour))
        return paint(background, sprites)


def sprite_mask(name: str, scale: Fraction, orientation: int, x: int, y: int) -> np.ndarray:
    """(64, 64) bool: the pixels whose centres lie in a sprite.

    Args:
        name: key of `SHAPES`.
        scale: above 0, at most 1.
        orientation: turns, in 40ths of the full one.
        x, y: its centre in pixels from the upper left corner of the picture.
    """
    angle = 2 * np.pi * orientation / ORIENTATIONS
    cosine, sine = round(float(np.cos(angle)) * _UNIT), round(float(np.sin(angle)) * _UNIT)
    centres = 2 * np.arange(IMAGE_SIZE) + 1  # in half pixels
    right, down = centres[None, :] - 2 * x, centres[:, None] - 2 * y
    reach = 2 * _REACH * _UNIT * scale.numerator / scale.denominator
    u = (cosine * right + sine * down) / reach
    v = (cosine * down - sine * right) / reach
    return SHAPES[name](u, v)


def _square(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return (2 * u * u <= 1) & (2 * v * v <= 1)  # its corners are 1 from the centre


def _ellipse(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return u * u + 4 * v * v <= 1


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The curve (a² + b² - 1)³ = a² b³, whose lobes reach 1.42 from the origin."""
    a, b = 1.43 * u, -1.43 * v
    rest = a * a + b * b - 1
    return rest * rest * rest <= a * a * b * b * b


SHAPES = {"square": _square, "ellipse": _ellipse, "heart": _heart}
