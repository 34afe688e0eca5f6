"""Open Images: pictures with the names of what is in them."""

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ..entries.entry import Entry
from ..entries.files import find_picture
from ..entries.values import quoted
from .picture_folders import NamedTask, as_folders, check_task


def read_open_images(
    labels: str | Path,
    classes: str | Path,
    images: str | Path | list[str | Path],
    task: NamedTask = "concepts",
) -> Iterator[Entry]:
    """Reads Open Images V7 (storage.googleapis.com/openimages; annotations CC BY 4.0, pictures listed as CC BY 2.0): a
    row for each picture, with all names that people saw in it (`Confidence` 1).

    Names that people ruled out (0) and those that a machine alone is more or less sure of are left out, and so is a
    picture without any other. There is no task "caption": only some names were asked about, so they are no description
    of the picture; as a request to draw they are one, though not of everything ("text_to_image", see `to_row`).

    Args:
        labels: `oidv6-train-annotations-human-imagelabels.csv` or `oidv7-train-annotations-human-imagelabels.csv`, of
            all pictures; `train-annotations-human-imagelabels-boxable.csv`, of the 1.7 M with boxes and of 600 classes;
            or `oidv6-train-annotations-bbox.csv`, of which a row has a name once for each box. They are sorted by
            `ImageID` and are read line by line.
        classes: `oidv7-class-descriptions.csv`, or that of an older version; lines of `LabelName,DisplayName`.
        images: the folder with the pictures, or the folders, such as `train_0` to `train_f`, each as `ImageID.jpg`.
        task: "concepts" (the picture with the names), "reconstruction" (without) or "text_to_image".

    Raises:
        ValueError: another task, a folder or file that is not as above; for labels that are not sorted, at that line.
    """
    check_task(task)
    folders = as_folders(images)
    names = class_names(classes)
    lines = _lines(labels)
    _, header = next(lines, (0, []))
    if absent := [column for column in ("ImageID", "LabelName", "Confidence") if column not in header]:
        raise ValueError(f"{labels} has no column {absent[0]} in its first line, {quoted(header)}")
    picture_at, label_at, confidence_at = map(header.index, ("ImageID", "LabelName", "Confidence"))

    def entry(picture: str, seen: list[str]) -> Entry:
        return Entry(f"{Path(labels).name}, picture {picture}", partial(_row, picture, seen, names, folders, task))

    picture, seen = "", []
    for number, line in lines:
        if len(line) != len(header):
            yield Entry(f"{Path(labels).name}, line {number}", partial(_refuse, line, len(header)))
            continue
        if line[picture_at] != picture:
            if line[picture_at] < picture:
                raise ValueError(
                    f"{labels}, line {number}: not in the order of ImageID, in which the files are released; sort it: "
                    f"(head -n 1 FILE; tail -n +2 FILE | LC_ALL=C sort -s -t, -k{picture_at + 1},{picture_at + 1})"
                )
            if seen:
                yield entry(picture, seen)
            picture, seen = line[picture_at], []
        if line[confidence_at] in ("1", "1.0") and ("XMin" in header or line[label_at] not in seen):
            seen.append(line[label_at])
    if seen:
        yield entry(picture, seen)


def class_names(classes: str | Path) -> dict[str, str]:
    """LabelName -> DisplayName, of a file of classes as `read_open_images` takes it.

    Raises:
        ValueError: it cannot be read.
    """
    return {line[0]: line[1] for _, line in _lines(classes) if len(line) == 2 and line[0] != "LabelName"}


def _row(picture: str, labels: list[str], names: dict[str, str], folders: list[Path], task: NamedTask) -> dict:
    if unknown := [label for label in labels if label not in names]:
        raise ValueError(f"the label {quoted(unknown[0])} has no name in the file of classes")
    found = [names[label] for label in labels if task != "reconstruction"]
    return {"image": find_picture(f"{picture}.jpg", *folders), "concepts": found, "task": task}


def _refuse(line: list[str], num_columns: int) -> dict:
    raise ValueError(f"{len(line)} values, not {num_columns} as in the first line: {quoted(line)}")


def _lines(file: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Number and values of each line that is not empty."""
    try:
        with open(file, encoding="utf-8", newline="") as opened:
            reader = csv.reader(opened)
            for line in reader:
                if line:
                    yield reader.line_num, line
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} cannot be read as CSV: {error}") from error
