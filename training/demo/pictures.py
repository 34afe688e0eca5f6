"""Pictures to show: test scenes, photographs, files of users."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from processing import SetokImageProcessor, draw_mask
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


def enlarge(image: Image.Image, width: int, height: int) -> Image.Image:
    """A small picture in the largest whole multiple of its size that fits: its pixels become squares, and one sees what
    a model really painted, not a blur of it. Any other is brought to the largest size that fits, smoothly."""
    if (factor := min(width // image.width, height // image.height)) > 1:
        return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    scale = min(width / image.width, height / image.height)
    size = [max(1, round(side * scale)) for side in image.size]
    return image.resize(size, Image.Resampling.BICUBIC)


def centred(image: Image.Image, width: int, height: int) -> Image.Image:
    """The picture in the middle of a white one."""
    canvas = Image.new("RGB", (width, height), "white")
    canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return canvas


def outline(image: Image.Image, mask: np.ndarray, side: int) -> Image.Image:
    """The picture with a mask (H, W) bool of its size over it, by a whole factor at least as large as `side`."""
    factor = -(-side // max(image.size))
    image = image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    return draw_mask(image, mask.repeat(factor, 0).repeat(factor, 1))


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
