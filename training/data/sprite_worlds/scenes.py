"""What both worlds share: a scene, and the seeded worlds that make scenes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class SpriteScene:
    """A picture and its objects.

    Attributes:
        image: (H, W, 3) uint8.
        masks: (n, H, W) bool, the visible pixels of each object; disjoint, and none is empty.
        names: n names of shapes.
    """

    image: np.ndarray
    masks: np.ndarray
    names: list[str]


@dataclass(frozen=True)
class SpriteWorld(ABC):
    """Scenes made on demand: scene i is the same bytes whenever and wherever it is made.

    Args:
        split: "train", "validation" or "test": disjoint streams.
        num_scenes: the number of scenes.
        seed: another seed, other scenes.
    """

    split: str
    num_scenes: int
    seed: int = 0

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(f"unknown split {self.split!r}; choose one of {', '.join(SPLITS)}")
        if self.num_scenes < 1 or self.seed < 0:
            raise ValueError(f"needed: num_scenes >= 1 and seed >= 0, got {self.num_scenes} and {self.seed}")

    def __len__(self) -> int:
        return self.num_scenes

    def scene(self, index: int) -> SpriteScene:
        """Scene number `index`, from 0 on."""
        if not 0 <= index < self.num_scenes:
            raise IndexError(f"scene {index} is not among the {self.num_scenes} scenes")
        return self._draw(np.random.default_rng((self.seed, SPLITS.index(self.split), index)))

    @abstractmethod
    def _draw(self, rng: np.random.Generator) -> SpriteScene: ...


def paint(background: np.ndarray, sprites: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> SpriteScene:
    """A scene of sprites (name, mask (H, W) bool, pixels that broadcast to (H, W, 3) uint8), later ones over earlier
    ones, on a background that does so as well. What is wholly covered is no object of the scene."""
    shape = sprites[0][1].shape
    image = np.empty((*shape, 3), np.uint8)
    image[...] = background
    owner = np.full(shape, -1, np.int8)
    for index, (_, mask, pixels) in enumerate(sprites):
        image[mask] = np.broadcast_to(pixels, image.shape)[mask]
        owner[mask] = index
    seen = [index for index in range(len(sprites)) if (owner == index).any()]
    masks = owner == np.array(seen, np.int8)[:, None, None]
    return SpriteScene(image, masks, [sprites[index][0] for index in seen])
