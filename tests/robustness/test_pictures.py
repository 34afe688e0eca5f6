"""Bytes, EXIF, modes and sizes of pictures, and arrays in their place: pixel values, or a refusal that says why."""

import io
import math
import random

import numpy as np
import pytest
import torch
from PIL import Image

from processing import SetokImageProcessor
from tests.robustness.campaign import campaign
from tests.setokim_testing import tiny_setok

pytestmark = pytest.mark.slow

PROCESSOR = SetokImageProcessor(size={"height": 16, "width": 12})
FORMATS = ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "PPM", "ICO", "TGA", "JPEG2000"]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encode(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def damage(chance: random.Random, whole: bytes) -> bytes:
    part = bytearray(whole)
    for _ in range(chance.randint(0, 8)):
        part[chance.randrange(len(part))] = chance.randrange(256)
    if chance.random() < 0.3:
        del part[chance.randrange(1, len(part)) :]
    return bytes(part)


def is_pixels(batch) -> bool:
    pixels = batch["pixel_values"]
    return pixels.shape == (1, 3, 16, 12) and bool((pixels.abs() <= 1).all())


@pytest.mark.filterwarnings("ignore")
def test_bytes(tmp_path):
    chance = random.Random(0)
    with campaign("bytes of pictures", least=1500) as cases:
        for kind in FORMATS:
            whole = encode(noise(20, 30), kind)
            for number in range(140):
                path = tmp_path / f"{kind}{number}.bin"
                path.write_bytes(damage(chance, whole))
                given = path if number % 2 else str(path)
                cases.run(f"{kind} {number}", lambda given=given: PROCESSOR(given), is_pixels, names=[path.name])


@pytest.mark.filterwarnings("ignore")
def test_exif():
    """The picture is read whatever its EXIF says of it: as it is, or turned in one of the eight ways."""
    chance, image = random.Random(1), noise(12, 8)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x0132], exif[0x8825] = (
        6,
        "a picture",
        "2020:01:01 00:00:00",
        {1: "N", 2: (1.0, 2.0)},
    )
    turned = [image, *(image.transpose(turn) for turn in Image.Transpose)]
    expected = [PROCESSOR(other)["pixel_values"] for other in turned]
    with campaign("EXIF", least=500) as cases:
        for number in range(500):
            file = io.BytesIO(encode(image, "PNG", exif=damage(chance, exif.tobytes())))
            cases.run(
                f"EXIF {number}",
                lambda file=file: PROCESSOR(Image.open(file))["pixel_values"],
                lambda pixels: any(torch.equal(pixels, other) for other in expected),
                must_be_right=True,
            )


def test_modes_and_sizes():
    modes = [
        "1",
        "L",
        "P",
        "RGB",
        "RGBA",
        "CMYK",
        "YCbCr",
        "LAB",
        "HSV",
        "I",
        "F",
        "I;16",
        "LA",
        "La",
        "PA",
        "RGBa",
        "RGBX",
    ]
    sizes = [(0, 0), (0, 3), (3, 0), (1, 1), (1, 500), (500, 1), (7, 5), (12, 16), (2000, 3)]
    with campaign("modes and sizes", least=150) as cases:
        for mode in modes:
            for size in sizes:
                cases.run(
                    f"{mode} {size}",
                    lambda mode=mode, size=size: PROCESSOR(Image.new(mode, size)),
                    is_pixels,
                    names=["empty", "mode", "conversion"],
                    must_refuse=0 in size,
                )


def test_arrays():
    chance, generator = random.Random(2), np.random.default_rng(2)
    dtypes = [
        "uint8",
        "int8",
        "int16",
        "int64",
        "uint16",
        "float16",
        "float32",
        "float64",
        "bool",
        "complex64",
        "object",
    ]
    specials = [math.nan, math.inf, -math.inf, -1, 1.5, 255, 256, 1e30]
    with campaign("arrays as pictures", least=1000) as cases:
        for number in range(1000):
            shape = tuple(
                chance.choice([0, 1, 2, 3, 4, 5, 8]) for _ in range(chance.choice([0, 1, 2, 3, 3, 3, 3, 4, 5]))
            )
            dtype = chance.choice(dtypes)
            array = np.asarray(generator.random(shape) * (255 if "int" in dtype else 1)).astype(dtype)
            if array.size and chance.random() < 0.4:
                with np.errstate(all="ignore"):
                    array.flat[0] = np.array(chance.choice(specials)).astype(dtype)
            broken = array.size == 0
            if dtype not in ("object", "uint16") and chance.random() < 0.5:
                array = torch.as_tensor(array)
            cases.run(
                f"{number}: {dtype} {shape}",
                lambda array=array: PROCESSOR(array),
                lambda batch: (
                    batch["pixel_values"].shape[1:] == (3, 16, 12) and bool((batch["pixel_values"].abs() <= 1).all())
                ),
                names=["image", "array"],
                must_refuse=broken,
            )


def test_settings():
    values = [
        math.nan,
        math.inf,
        -math.inf,
        0.0,
        -1.0,
        0.5,
        "1",
        None,
        [0.5],
        [0.5] * 3,
        [0.5, math.nan, 0.5],
        {},
        True,
    ]
    names = ["rescale_factor", "image_mean", "image_std", "size", "resample", "do_rescale", "do_normalize", "do_resize"]
    with campaign("settings of the image processor", least=100) as cases:
        for name in names:
            for value in values:
                cases.run(
                    f"{name}={value!r}",
                    lambda name=name, value=value: PROCESSOR(noise(8, 8), **{name: value}),
                    lambda batch: bool(batch["pixel_values"].isfinite().all()),
                )


def test_pixel_values():
    """Of SeTok itself, past the image processor."""
    chance, model = random.Random(3), tiny_setok()
    shapes = [(0, 3, 24, 24), (1, 1, 24, 24), (3, 24, 24), (24, 24), (1, 3, 0, 24), (1, 3, 20, 24)]
    masks = [None, None, None, torch.ones(2, 36), torch.zeros(2, 36), torch.ones(2, 35), torch.ones(36)]
    dtypes = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int64, torch.bool]
    with campaign("pixel values", least=500) as cases, torch.no_grad():
        for number in range(500):
            shape = chance.choice([(2, 3, 24, 24)] * 10 + shapes)
            dtype, scale = chance.choice(dtypes), chance.choice([0, 1, 1, 1, 255, 1e4, 1e30, math.nan, math.inf])
            pixels = torch.randn(shape, generator=torch.Generator().manual_seed(number))
            pixels = (scale * pixels).to(dtype)
            mask = chance.choice(masks)
            cases.run(
                f"{number}: {dtype} {shape} {scale} {None if mask is None else mask.shape}",
                lambda pixels=pixels, mask=mask: model.setok(pixels, None if mask is None else mask.bool()),
                lambda output: bool(output.last_hidden_state.isfinite().all()) and bool((output.num_tokens > 0).all()),
                names=["pixel_values", "patch_mask", "no valid patch", "input image size", "grid"],
                must_refuse=not dtype.is_floating_point or len(shape) != 4 or 0 in shape,
            )
