"""Packages as Debian's are laid out, with a few small pictures of our own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.photo_scenes.fetch import fetch
from training.data.photo_scenes.grounds import OPENCV

# Path of a stamp -> caption, noun, red value of its picture. By sha256 of the nouns three are in each split.
STAMPS = {
    "animals/frog": ("A frog.", "frog", 20),
    "animals/frog-1": ("A little frog!", "frog", 40),
    "animals/horse": ("A horse.", "horse", 60),
    "animals/zebra": ("A zebra.", "zebra", 80),
    "animals/owl": ("An owl (a bird), by night.", "owl", 100),
    "animals/tiger": ("A tiger.", "tiger", 120),
    "animals/tiger2": ("A Sumatran tiger", "tiger", 140),
    "animals/dog": ("A dog.", "dog", 160),
    "animals/lion": ("A lion.", "lion", 180),
    "animals/otter": ("An otter making friends.", "otter", 220),
    "plants/rose": ("A red rose flower.", "rose", 200),
}


def photograph(width: int, height: int, red: int, seed: int = 0) -> np.ndarray:
    """(h, w, 4) uint8: an ellipse of one red value and many colours, that fills its box."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(256, size=(height, width, 4), dtype=np.uint8)
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    pixels[..., 0], pixels[..., 3] = red, 255 * (x**2 + y**2 <= 1)
    return pixels


def write_stamp(root: Path, stamp: str, caption: str | None, pixels: np.ndarray) -> None:
    path = root / f"{stamp}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(f"{caption}\nfr=Une image.\n", encoding="utf-8")


def write_packages(root: Path) -> tuple[Path, Path]:
    """The trees of the two packages."""
    stamps, examples = root / "stamps-package", root / "grounds-package"
    for stamp, (caption, _, red) in STAMPS.items():
        write_stamp(stamps / "usr/share/tuxpaint/stamps", stamp, caption, photograph(120, 100, red))
    for seed, name in enumerate(OPENCV):
        path = examples / "usr/share/doc/opencv-doc/examples" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(80, 60, 10 * seed, seed)[..., :3]).save(path)
    return stamps, examples


@pytest.fixture(scope="session")
def packages(tmp_path_factory) -> tuple[Path, Path]:
    return write_packages(tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="session")
def folder(packages, tmp_path_factory) -> str:
    return str(fetch(tmp_path_factory.mktemp("photo") / "scenes", *packages))
