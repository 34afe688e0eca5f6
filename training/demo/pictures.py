"""Pictures to show: test scenes, photographs, files of users."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from processing import SetokImageProcessor
from training.data import Scene, SceneConfig, make_scene

PHOTOGRAPHS = ("astronaut", "coffee")  # two of those inside scikit-image's package: nothing is downloaded


@dataclass(frozen=True)
class Picture:
    """An RGB picture, the name of its file, and the scene that it shows where it is one of EmojiScenes."""

    name: str
    image: Image.Image
    scene: Scene | None = None

    @property
    def title(self) -> str:
        if self.scene is None:
            return self.name
        return f"test scene of {count(len(self.scene.names), 'object')}"


def make_scenes(number: int, image_size: int) -> list[Picture]:
    """Scenes of the test split, which no training sees, from the least to the largest number of objects."""
    if number < 0:
        raise ValueError(f"The number of scenes cannot be negative, got {number}.")
    pictures = []
    numbers = np.linspace(SceneConfig.min_objects, SceneConfig.max_objects, number).round().astype(int).tolist()
    for index, num_objects in enumerate(numbers):
        config = SceneConfig(image_size=image_size, min_objects=num_objects, max_objects=num_objects)
        scene = make_scene("test", index, config)
        pictures.append(Picture("scene", Image.fromarray(scene.image), scene))
    return pictures


def load_photographs() -> list[Picture]:
    from skimage import data

    return [Picture(name, Image.fromarray(getattr(data, name)())) for name in PHOTOGRAPHS]


def read_picture(path: str, image_processor: SetokImageProcessor) -> Picture:
    """A file of any size, mode and EXIF orientation, as the image processor reads it; `ValueError` if it cannot."""
    try:
        with Image.open(path) as file:
            pixels = image_processor.process_image(file)
    except Exception as error:  # decoders raise anything on broken bytes
        raise ValueError(f"The picture {path!r} cannot be read: {error}") from error
    return Picture(Path(path).stem, Image.fromarray(np.moveaxis(pixels, 0, -1)))


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
