"""The photographs behind the objects: views and textures in which no single object stands out, chosen by eye."""

from pathlib import Path

import skimage
from PIL import Image

# Below examples/ of Debian's opencv-doc, and in the data folder of scikit-image's wheel; photographs of the same place
# are in the same split.
OPENCV = {
    "data/aero1.jpg": "train",  # a town from above
    "data/aero3.jpg": "train",
    "data/board.jpg": "train",  # a circuit board
    "data/leuvenA.jpg": "train",  # a street of brick houses
    "text/scenetext03.jpg": "train",  # a passage
    "text/scenetext06.jpg": "train",  # houses
    "data/building.jpg": "validation",
    "data/home.jpg": "test",  # a church
    "hfs/data/001.jpg": "test",  # a lake
    "text/scenetext04.jpg": "test",  # a wall of stones
}
SKIMAGE = {
    "brick.png": "train",
    "hubble_deep_field.jpg": "train",
    "moon.png": "train",
    "gravel.png": "validation",
    "ihc.png": "validation",  # stained tissue under a microscope
    "grass.png": "test",
}
LONGEST_SIDE = 1024  # pixels


def find_grounds(examples: Path) -> list[tuple[str, str, Image.Image]]:
    """(source, split, RGB picture with a longer side of at most `LONGEST_SIDE`) of every ground.

    Args:
        examples: the folder `examples` of opencv-doc.

    Raises:
        ValueError: if one is missing or cannot be read.
    """
    found = []
    for folder, of, splits in ((examples, "opencv-doc", OPENCV), (Path(skimage.data_dir), "scikit-image", SKIMAGE)):
        for name, split in splits.items():
            try:
                with Image.open(folder / name) as file:
                    picture = file.convert("RGB")
            except OSError as error:
                raise ValueError(f"The photograph {name} of {of} is not whole in {folder} ({error}).") from error
            picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
            found.append((f"{of}/{name}", split, picture))
    return found
