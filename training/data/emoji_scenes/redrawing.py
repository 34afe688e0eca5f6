"""Objects in other colours and with other lines: a drawing style that nobody drew, so that names follow the shapes."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageFilter

from .sprites import sprite


@lru_cache(maxsize=1024)
def redrawn_sprite(name: str, size: int, flip: bool, style: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """As `sprites.sprite`, in random colours and, most of the time, with dark lines. The object's pixels stay.

    A style that is kept out of training differs from those in it by its palette and its lines; a model that met each
    object in many of them does not take either for its name.

    Args:
        seed: of what is drawn at random; on every machine the same bytes.
    """
    pixels, mask = sprite(name, size, flip, style)
    rng = np.random.default_rng(seed)
    alpha = pixels[..., 3:].astype(int)
    colours = pixels[..., :3].astype(int) * 255 // np.maximum(alpha, 1)  # no longer premultiplied
    colours = _flattened(rng, _toned(rng, _turned(rng, colours)))
    if rng.random() < 0.6:
        colours = _lined(rng, colours, pixels, max(1, round(size * rng.uniform(0.01, 0.06))))
    redrawn = np.concatenate([(colours * alpha + 127) // 255, alpha], -1).astype(np.uint8)
    redrawn.setflags(write=False)
    return redrawn, mask


def _turned(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    """Another hue and saturation: a circulant matrix of the channels, which keeps greys, turns around them."""
    angle, saturation = rng.normal(0, 0.6), rng.uniform(0.3, 1.8) * (rng.random() > 0.15)
    shifts = np.array([0, 2, 4]) * np.pi / 3
    weights = np.rint(256 * (1 + 2 * saturation * np.cos(angle + shifts)) / 3).astype(int)
    weights[0] += 256 - weights.sum()
    turned = sum(weight * np.roll(colours, shift, -1) for shift, weight in enumerate(weights))
    return np.clip(turned // 256, 0, 255)


def _toned(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    """Darker or paler in the middle, another contrast and brightness."""
    bend, contrast, shift = int(rng.integers(-200, 201)), int(rng.integers(128, 461)), int(rng.integers(-38, 39))
    bent = colours + bend * colours * (255 - colours) // 255**2
    return np.clip((bent - 128) * contrast // 256 + 128 + shift, 0, 255)


def _flattened(rng: np.random.Generator, colours: np.ndarray) -> np.ndarray:
    """Often of few tones."""
    if rng.random() < 0.4:
        levels = int(rng.integers(2, 6))
        colours = (colours * levels + 127) // 255 * 255 // levels
    return colours


def _lined(rng: np.random.Generator, colours: np.ndarray, pixels: np.ndarray, width: int) -> np.ndarray:
    """Dark lines, `width` pixels to both sides of where the drawing (h, w, 4) changes, some around pale areas."""
    window = 2 * width + 1
    framed = Image.fromarray(np.pad(pixels, ((width, width), (width, width), (0, 0))), "RGBA")
    most, least = (np.array(framed.filter(f(window)), int) for f in (ImageFilter.MaxFilter, ImageFilter.MinFilter))
    change = (most - least).max(-1, keepdims=True)[width:-width, width:-width]
    limit, darkness = int(rng.integers(38, 243)), int(rng.integers(0, 52))
    if rng.random() < 0.2:
        colours = 255 - (255 - colours) * int(rng.integers(0, 129)) // 256
    line = np.clip((change - limit) * 8, 0, 255)
    return (colours * (255 - line) + darkness * line) // 255
