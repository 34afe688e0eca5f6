"""ReasonSeg: what a phrase or a question alludes to, which takes reasoning to find."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from training.data.entries.values import listed, quoted, text
from training.evaluation.benchmark.benchmark import Benchmark, Example, Networks
from training.evaluation.benchmark.released import checked, released
from training.evaluation.metrics import ReferringIoU
from training.evaluation.report import Row

SPLITS = ("val", "test", "train")
TARGET, IGNORED = 1, 255
GROUPS = {False: "short", True: "long"}  # by "is_sentence", as the paper's table has them


def read(data: Path, split: str) -> list[Example]:
    folder = released(data, split, remedy="It is the folder ReasonSeg of the release, with train, val and test in it.")
    pictures = sorted(folder.glob("*.jpg"))
    if not pictures:
        raise ValueError(f"{folder} holds no .jpg; the release has a .json with polygons beside each.")
    return [_example(picture, split) for picture in pictures]


def _example(picture: Path, split: str) -> Example:
    file = picture.with_suffix(".json")
    (record,) = checked([_read_annotation(file)], file, text=listed, shapes=listed, is_sentence=_truth_value)
    if not record["text"]:
        raise ValueError(f"{file} has no 'text', which is what is to be found")
    request = text(record["text"][0], f"{file}: 'text'")  # the first, as the official evaluation does
    shapes = [
        (shape["label"].lower(), [_point(point, file) for point in shape["points"]])
        for shape in checked(record["shapes"], f"{file}: 'shapes'", label=text, points=listed)
        if shape["label"].lower() != "flag"  # of which the release has no more use
    ]
    return Example(
        key=f"{split}/{picture.stem}",
        request=request.strip().rstrip(".?"),
        images=(picture,),
        truth=partial(_draw, shapes, picture),
        group=GROUPS[record["is_sentence"]],
    )


def _read_annotation(file: Path) -> object:
    """Some files of the release are in UTF-8, some in Windows' code page 1252."""
    if not file.is_file():
        raise ValueError(f"{file} is missing: the release has such a file beside each .jpg.")
    content = file.read_bytes()
    try:
        decoded = content.decode("utf-8")
    except UnicodeDecodeError:
        decoded = content.decode("cp1252")
    try:
        return json.loads(decoded)
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error


def _truth_value(value: object, what: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{what} must be true or false, not {quoted(value)}")
    return value


def _point(point: object, file: Path) -> tuple[int, int]:
    """A corner of a polygon, at the pixel that it lies in, as the official evaluation draws it."""
    if not isinstance(point, list) or len(point) != 2 or not all(type(number) in (int, float) for number in point):
        raise ValueError(f"{file}: a point must be [x, y], not {quoted(point)}")
    return int(point[0]), int(point[1])


def _draw(shapes: Sequence[tuple[str, list]], picture: Path) -> np.ndarray:
    """(H, W) uint8: `TARGET`, `IGNORED` or 0. Smaller shapes lie on larger ones; their edges belong to them."""
    with Image.open(picture) as file:
        size = ImageOps.exif_transpose(file).size  # as a model is shown it
    masks = [(label, _fill(points, size)) for label, points in shapes if points]
    drawn = np.zeros(size[::-1], np.uint8)
    for label, mask in sorted(masks, key=lambda pair: -pair[1].sum()):
        drawn[mask] = IGNORED if "ignore" in label else TARGET
    return drawn


def _fill(points: list[tuple[int, int]], size: tuple[int, int]) -> np.ndarray:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).polygon([*points, points[0]], fill=1, outline=1)
    return np.asarray(mask) > 0


def score(examples: Sequence[Example], answers: Sequence[Any], networks: Networks) -> dict[str, float]:
    """`giou` and `ciou`, also with `_short` and `_long`, less the pixels that are to be ignored."""
    metrics = {group: ReferringIoU() for group in ("", *GROUPS.values())}
    for example, answer in zip(examples, answers, strict=True):
        truth = example.truth()
        if answer.shape != truth.shape:
            raise ValueError(f"{example.key}: the mask is {answer.shape}, and the picture {truth.shape}.")
        counted = {"predictions": [answer & (truth != IGNORED)], "references": [truth == TARGET]}
        for group in ("", example.group):
            metrics[group].add_batch(**counted)
    results = {"num_examples": len(examples)}
    for group, metric in metrics.items():
        if len(metric):
            found = metric.compute()
            results |= {f"{key}_{group}".rstrip("_"): found[key] for key in ("giou", "ciou")}
    return results


REASON_SEG = Benchmark(
    name="reason-seg",
    answer="mask",
    splits=SPLITS,
    files="val/*.jpg with a .json of polygons beside each; so test and train",
    definition="Lai et al. 2024 (LISA) and its evaluation: the first text of each file, pixels of shapes labelled "
    "ignore left out",
    read=read,
    score=score,
    rows=(
        Row("pictures", "num_examples", ".0f"),
        Row("gIoU", "giou", beside={"phrases": "giou_short", "sentences": "giou_long"}),
        Row("cIoU", "ciou", beside={"phrases": "ciou_short", "sentences": "ciou_long"}),
    ),
)
