"""The worlds in which discovery is measured: what they draw, and which pictures S is calibrated on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np

from training.data import EmojiScenes, MultiDSprites, PhotoSceneConfig, PhotoScenes, SceneConfig, Tetrominoes

EMOJI_SIZE = 224  # pixels of a picture of EmojiScenes, whatever the encoder takes
CALIBRATION_SCENES = 30
GROUNDS = {"photo_flat": "flat", "photo_photo": "photo"}  # world -> ground of its PhotoScenes


class DiscoveryScene(Protocol):
    """image (H, W, 3) uint8, disjoint masks (n, H, W) bool, n names."""

    image: np.ndarray
    masks: np.ndarray
    names: list[str]


class Scenes(Protocol):
    """A world's scenes of one split and seed."""

    def scene(self, index: int) -> DiscoveryScene: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Worlds:
    """Makes worlds by name.

    Args:
        image_size: side in pixels of the pictures of PhotoScenes.
        photo_folder: what `training.data.photo_scenes.fetch` wrote.
    """

    image_size: int
    photo_folder: str = PhotoSceneConfig.folder

    def __call__(self, name: str, split: str, num_scenes: int, seed: int) -> Scenes:
        if name not in WORLDS:
            raise ValueError(f"unknown world {name!r}; choose some of {', '.join(WORLDS)}")
        return WORLDS[name](self, split, num_scenes, seed)

    def calibration(self, name: str) -> Iterator[DiscoveryScene]:
        """The scenes that S is calibrated on: `CALIBRATION_SCENES` of the validation split, of the world itself; for
        either kind of photographs of both, half and half."""
        names = list(GROUNDS) if name in GROUNDS else [name]
        worlds = [self(each, "validation", CALIBRATION_SCENES // len(names), seed=0) for each in names]
        return chain.from_iterable(map(scenes.scene, range(len(scenes))) for scenes in worlds)


def _photo(ground: str) -> Callable[["Worlds", str, int, int], Scenes]:
    def make(worlds: Worlds, split: str, num_scenes: int, seed: int) -> Scenes:
        config = PhotoSceneConfig(image_size=worlds.image_size, grounds=(ground,), folder=worlds.photo_folder)
        return PhotoScenes(split, num_scenes, config, seed=seed)

    return make


def _emoji(worlds: Worlds, split: str, num_scenes: int, seed: int) -> Scenes:
    return EmojiScenes(split, num_scenes, SceneConfig(image_size=EMOJI_SIZE), seed=seed)


def _multi_dsprites(worlds: Worlds, split: str, num_scenes: int, seed: int) -> Scenes:
    return MultiDSprites(split, num_scenes, seed)


def _tetrominoes(worlds: Worlds, split: str, num_scenes: int, seed: int) -> Scenes:
    return Tetrominoes(split, num_scenes, seed)


WORLDS: dict[str, Callable[[Worlds, str, int, int], Scenes]] = {
    **{name: _photo(ground) for name, ground in GROUNDS.items()},
    "emoji": _emoji,
    "multi_dsprites": _multi_dsprites,
    "tetrominoes": _tetrominoes,
}
