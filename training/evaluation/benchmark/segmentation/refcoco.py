"""RefCOCO, RefCOCO+, RefCOCOg: the object that an expression refers to, in pictures of COCO."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from training.data import CocoMasks, load_refcoco
from training.evaluation.benchmark.benchmark import Benchmark, Example, Networks
from training.evaluation.benchmark.released import released
from training.evaluation.metrics import ReferringIoU
from training.evaluation.metrics.segmentation import PRECISION_PERCENT
from training.evaluation.report import Row

PICTURES = ("images/mscoco/images/train2014", "train2014")
ROWS = (
    Row("expressions", "num_examples", ".0f"),
    Row("cIoU", "ciou"),
    Row("gIoU (mean IoU)", "giou"),
    *(Row(f"precision at IoU .{percent // 10}", f"precision_{percent}") for percent in PRECISION_PERCENT),
)


def _benchmark(name: str, split_by: str, splits: tuple[str, ...]) -> Benchmark:
    return Benchmark(
        name=name,
        answer="mask",
        splits=splits,
        files=f"{name}/refs({split_by}).json (the release's .p written out as JSON), {name}/instances.json, and the "
        f"pictures in {' or '.join(PICTURES)}",
        definition="Yu et al. 2016, Mao et al. 2016, Nagaraja et al. 2016 and their `refer` API; cIoU and precision as "
        "Yang et al. 2022 (LAVT), over all sentences of all objects",
        read=partial(_read, name, split_by, splits),
        score=score,
        rows=ROWS,
    )


def _read(name: str, split_by: str, splits: Sequence[str], data: Path, split: str) -> list[Example]:
    refs, pickled = (f"{name}/refs({split_by}).{ending}" for ending in ("json", "p"))
    if not (data / refs).is_file() and (data / pickled).is_file():
        raise ValueError(
            f"{data / pickled} is a pickle, which can run code when it is read, and is not: where you trust it, write "
            f"its content out as {refs} once, by json.dump(pickle.load(...), ...)."
        )
    masks = load_refcoco(
        released(data, refs, remedy=f"It is the `refer` API's data folder, with {pickled} written out as JSON."),
        released(data, f"{name}/instances.json"),
        released(data, *PICTURES, remedy="They are the pictures of COCO's train2014."),
        split,
    )
    return [_example(masks, index, split) for index in range(len(masks))]


def _example(masks: CocoMasks, index: int, split: str) -> Example:
    region = masks.regions[index]
    return Example(
        key=f"{split}-{index}",
        request=region.expression,
        images=(Path(region.picture),),
        truth=partial(_mask, masks, index),
    )


def _mask(masks: CocoMasks, index: int) -> np.ndarray:
    (mask,) = masks[index]["masks"]
    return np.asarray(mask) > 0


def score(examples: Sequence[Example], answers: Sequence[Any], networks: Networks) -> dict[str, float]:
    """See `ReferringIoU`. The truth of an example is a function that draws its mask (H, W) bool."""
    metric = ReferringIoU()
    for example, answer in zip(examples, answers, strict=True):
        metric.add_batch(predictions=[answer], references=[example.truth()])
    return {"num_examples": len(examples)} | metric.compute()


REFCOCO = _benchmark("refcoco", "unc", ("val", "testA", "testB"))
REFCOCO_PLUS = _benchmark("refcoco+", "unc", ("val", "testA", "testB"))
REFCOCOG = _benchmark("refcocog", "umd", ("val", "test"))
