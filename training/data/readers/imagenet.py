"""ImageNet-1K: a folder of pictures for each class."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..entries.entry import Entry
from ..entries.files import find_picture
from ..entries.values import quoted
from .picture_folders import NamedTask, check_task

_SYNSET = re.compile(r"n\d{8}")


def read_imagenet(
    folder: str | Path, synsets: str | Path | None = None, task: NamedTask = "concepts"
) -> Iterator[Entry]:
    """Reads the pictures to train on of ILSVRC 2012 (image-net.org, for research that is not commercial), one row each,
    class by class: `n01440764/n01440764_18.JPEG` and so on, as the tar files in `ILSVRC2012_img_train.tar` and Kaggle's
    `ILSVRC/Data/CLS-LOC/train` have them. Those to validate on are not read: they lie in one folder, without classes.

    A picture has the first of the names of its class: "tench" of "n01440764 tench, Tinca tinca". Two pairs of classes
    share one: the birds and the machines called crane, and both kinds of maillot.

    Args:
        folder: holds the folders of the classes.
        synsets: `LOC_synset_mapping.txt` of Kaggle's release (also known as `synset_words.txt`): a line for each class.
            Not needed for reconstruction.
        task: "reconstruction" (the picture alone), "concepts" (with its name) or "text_to_image" (the name asks for it,
            see `to_row`).

    Raises:
        ValueError: another task, a folder or file that is not as above, a class without a line in `synsets`.
    """
    check_task(task)
    folder = Path(folder)
    classes = _classes(folder)
    names = {} if task == "reconstruction" else _first_names(synsets, task)
    if unnamed := [name for name in classes if task != "reconstruction" and name not in names]:
        raise ValueError(f"{synsets} has no line for the class {unnamed[0]} of {folder}")
    for synset in classes:
        for file in sorted(path.name for path in (folder / synset).iterdir() if path.suffix.upper() == ".JPEG"):
            yield Entry(f"{synset}/{file}", partial(_row, f"{synset}/{file}", folder, names.get(synset), task))


def _row(file: str, folder: Path, name: str | None, task: NamedTask) -> dict:
    return {"image": find_picture(file, folder), "concepts": [name] if name else [], "task": task}


def _classes(folder: Path) -> list[str]:
    try:
        classes = sorted(path.name for path in folder.iterdir() if path.is_dir() and _SYNSET.fullmatch(path.name))
    except OSError as error:
        raise ValueError(f"{folder} cannot be read: {error}") from error
    if not classes:
        raise ValueError(
            f"{folder} holds no folders of classes such as n01440764; give that of the pictures to train on "
            "(ILSVRC/Data/CLS-LOC/train, or where each class's tar file was unpacked in a folder of its name)"
        )
    return classes


def _first_names(synsets: str | Path | None, task: NamedTask) -> dict[str, str]:
    if synsets is None:
        raise ValueError(f"{task} needs the names of the classes: give synsets, the file LOC_synset_mapping.txt")
    try:
        lines = Path(synsets).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{synsets} cannot be read: {error}") from error
    names = {}
    for number, line in enumerate(lines, 1):
        synset, _, given = line.partition(" ")
        name = given.split(",")[0].strip()
        if not _SYNSET.fullmatch(synset) or not name:
            raise ValueError(f"{synsets}, line {number}: must be as 'n01440764 tench, Tinca tinca', not {quoted(line)}")
        names[synset] = name
    return names
