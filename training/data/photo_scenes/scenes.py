"""Compositions of photographic cut-outs on a flat ground or a photograph, with exact masks and names."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..composition import Composition, check_objects, compose, fit_sizes, mask_boxes, place, resized_sprite
from ..emoji_scenes.scenes import PALETTE, scene_rng
from .folder import FOLDER, cutout_files, ground_files, read_picture

GROUND_KINDS = ("flat", "photo")
_SMALLEST_CROP = 0.6  # of a ground's shorter side
_LONGEST = 0.8  # of the image's side: thin objects stay smaller than their area asks for


@dataclass(frozen=True)
class PhotoSceneConfig:
    """What scenes look like.

    Args:
        image_size: side of the square image in pixels, at least 64; 518 is 37 patches of 14 pixels.
        min_objects, max_objects: the number of objects is uniform in this range (inclusive, at most 12).
        object_size: range of the square root of an object's area as a fraction of the image's side, so that a guitar
            is as much to see as an apple. Scenes with many objects take smaller ones, so that all fit.
        grounds: the kinds of ground, each equally likely: "flat" (a colour) and "photo" (a part of a photograph).
        folder: what `fetch.py` wrote.
    """

    image_size: int = 518
    min_objects: int = 1
    max_objects: int = 6
    object_size: tuple[float, float] = (0.2, 0.36)
    grounds: tuple[str, ...] = GROUND_KINDS
    folder: str = FOLDER

    def __post_init__(self):
        if self.image_size < 64:
            raise ValueError(f"image_size must be at least 64 pixels, not {self.image_size}")
        check_objects(self.image_size, self.min_objects, self.max_objects, self.object_size)
        if not self.grounds or not set(self.grounds) <= set(GROUND_KINDS):
            raise ValueError(f"grounds must be some of {GROUND_KINDS}, not {self.grounds}")


class PhotoScene(Composition):
    """Cut-outs on a ground, all of different names; the background is a kind of `GROUND_KINDS` with the name of the
    colour or of the photograph."""

    @property
    def has_held_out_pair(self) -> bool:
        """Never: here whole objects are kept from training, not pairs."""
        return False


def make_photo_scene(split: str, index: int, config: PhotoSceneConfig | None = None, seed: int = 0) -> PhotoScene:
    """Scene number `index` (any from 0 on) of a split: the same bytes whenever it is made from the same folder.

    No object and no ground of a split is in another one.

    Raises:
        FileNotFoundError: the folder is not there yet.
        ValueError: it is damaged, or has fewer names in this split than a scene needs.
    """
    config = config or PhotoSceneConfig()
    rng = scene_rng(split, index, seed)
    files = cutout_files(split, config.folder)
    if len(files) < config.max_objects:
        raise ValueError(f"Split {split} has {len(files)} objects in {config.folder}: lower max_objects to that.")
    image, background = _draw_ground(rng, split, config)
    count = int(rng.integers(config.min_objects, config.max_objects + 1))
    names = [list(files)[i] for i in rng.permutation(len(files))[:count]]
    pictures = [read_picture(config.folder, files[name][rng.integers(len(files[name]))], "RGBa") for name in names]
    sprites, corners = fit_sizes(
        rng,
        count,
        config.object_size,
        config.image_size,
        arrange=lambda sizes: _arrange(rng, pictures, sizes, config.image_size),
    )
    masks, visible = compose(image, sprites, corners)
    return PhotoScene(image, masks, names, mask_boxes(masks), visible, background)


def _arrange(
    rng: np.random.Generator, pictures: list[Image.Image], sizes: list[int], image_size: int
) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[tuple[int, int]]] | None:
    """The pictures as sprites, some of them mirrored, and where they lie; None where one finds no place."""
    sprites = []
    for picture, size in zip(pictures, sizes, strict=True):
        pixels, mask = resized_sprite(picture, min(round(size / _filled(picture)), int(_LONGEST * image_size)))
        sprites.append((pixels[:, ::-1], mask[:, ::-1]) if rng.integers(2) else (pixels, mask))
    corners = place(rng, (mask for _, mask in sprites), image_size)
    return None if corners is None else (sprites, corners)


def _filled(picture: Image.Image) -> float:
    """The square root of an object's area as a fraction of its longer side."""
    pixels = np.count_nonzero(np.asarray(picture.getchannel("a")) > 127)
    return math.sqrt(pixels) / max(picture.size)


def _draw_ground(rng: np.random.Generator, split: str, config: PhotoSceneConfig) -> tuple[np.ndarray, tuple[str, str]]:
    """(S, S, 3) uint8, and what it is."""
    kind, size = config.grounds[rng.integers(len(config.grounds))], config.image_size
    if kind == "flat":
        name = list(PALETTE)[rng.integers(len(PALETTE))]
        colour = np.array(PALETTE[name]) + rng.integers(-6, 7, 3)
        return np.broadcast_to(np.clip(colour, 0, 255).astype(np.uint8), (size, size, 3)).copy(), (kind, name)
    files = ground_files(split, config.folder)
    name = list(files)[rng.integers(len(files))]
    photograph = read_picture(config.folder, files[name], "RGB")
    side = int(min(photograph.size) * (_SMALLEST_CROP + (1 - _SMALLEST_CROP) * rng.random()))
    x, y = (int(rng.integers(whole - side + 1)) for whole in photograph.size)
    crop = photograph.resize((size, size), Image.Resampling.LANCZOS, box=(x, y, x + side, y + side))
    image = np.array(crop)
    return (image[:, ::-1].copy() if rng.integers(2) else image), (kind, name)
