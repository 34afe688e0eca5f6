"""Pictures to show: test scenes, photographs, files of users."""

import io
import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TILELENGTH, TILEWIDTH

from processing import SetokImageProcessor, draw_mask
from training.data import Scene, SceneConfig, make_scene

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")  # some others of PIL run programs
MAX_BYTES = 64 * 2**20  # of a file
# A few KiB can hold millions of pixels. Read whole, each takes some 25 bytes in all copies: 25 million, as photographs
# of most phones have, are 600 MiB. A JPEG is made smaller while it is decoded; its coefficients are 8 bytes at most.
MAX_PIXELS, MAX_JPEG_PIXELS = 25_000_000, 110_000_000
MAX_SIDE = 2**16 - 1  # each row takes bytes of its own
MAX_SECONDS = 20  # of decoding: a file may hold the same picture many thousand times


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


def make_scenes(number: int, image_size: int, split: str = "test") -> list[Picture]:
    """Scenes of a split, by default of one that no training sees, from the least to the largest number of objects."""
    if number < 0:
        raise ValueError(f"The number of scenes cannot be negative, got {number}.")
    pictures = []
    numbers = np.linspace(SceneConfig.min_objects, SceneConfig.max_objects, number).round().astype(int).tolist()
    for index, num_objects in enumerate(numbers):
        config = SceneConfig(image_size=image_size, min_objects=num_objects, max_objects=num_objects)
        scene = make_scene(split, index, config)
        pictures.append(Picture("scene", Image.fromarray(scene.image), scene))
    return pictures


def load_photographs() -> list[Picture]:
    """Three of those inside scikit-image's package: nothing is downloaded."""
    from skimage import data

    photographs = {"astronaut": data.astronaut(), "motorcycle": data.stereo_motorcycle()[0], "cat": data.chelsea()}
    return [Picture(name, Image.fromarray(pixels)) for name, pixels in photographs.items()]


def read_picture(path: str, image_processor: SetokImageProcessor) -> Picture:
    """A file of any size, mode and EXIF orientation, as the image processor reads it; `ValueError` if it cannot, or if
    it would take too much memory or time. JPEGs of more than `MAX_PIXELS` are read at a half, a quarter or an eighth of
    their size."""
    try:
        if not os.path.isfile(path):  # to open a pipe is to wait for somebody who writes into it
            raise ValueError("there is no such file, or it is a folder or a device")
        if (size := os.path.getsize(path)) > MAX_BYTES:
            raise ValueError(f"the file has {size / 2**20:.0f} MiB, and may have {MAX_BYTES >> 20}")
        with _Hourglass(path) as file, _open(file) as image:
            pixels = image_processor.process_image(image)
    except Exception as error:  # decoders raise anything on broken bytes
        raise ValueError(f"The picture {path!r} cannot be read: {error}") from error
    return Picture(Path(path).stem, Image.fromarray(np.moveaxis(pixels, 0, -1)))


class _Hourglass(io.FileIO):
    """A file from which nothing is read any more when decoding takes too long."""

    def __init__(self, path: str):
        super().__init__(path)
        self.end = time.monotonic() + MAX_SECONDS

    def read(self, size: int = -1) -> bytes:
        if time.monotonic() > self.end:
            raise ValueError(f"to decode it takes more than {MAX_SECONDS} seconds")
        return super().read(size)


def _open(file: io.FileIO) -> Image.Image:
    """A picture of which nothing has been decoded yet, small enough to be read whole."""
    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        image = Image.open(file, formats=FORMATS)
    width, height = image.size
    if image.format == "TIFF":  # its tiles can be larger than itself
        width, height = max(width, image.tag_v2.get(TILEWIDTH, 0)), max(height, image.tag_v2.get(TILELENGTH, 0))
    pixels = width * height
    most = MAX_JPEG_PIXELS if image.format in ("JPEG", "MPO") else MAX_PIXELS
    if pixels > most or max(width, height) > MAX_SIDE:
        raise ValueError(
            f"it is too large with {width} x {height} pixels: a {image.format} may have {most // 10**6} million, and "
            f"{MAX_SIDE} on a side"
        )
    part = next(part for part in (1, 2, 4, 8) if pixels <= part**2 * MAX_PIXELS)
    if part > 1:
        image.draft(None, (image.width // part, image.height // part))
    return image


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


def count(number: int, noun: str, plural: str | None = None) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"
