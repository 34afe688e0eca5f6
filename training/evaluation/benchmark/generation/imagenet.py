"""The validation pictures of ImageNet: painted again by a SeTok, and named by it (Table 3)."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from training.data import pictures_in
from training.evaluation.benchmark.benchmark import Benchmark, Example, Networks
from training.evaluation.benchmark.generation.networks import frechet_distances, perceptual_distances
from training.evaluation.benchmark.generation.pictures import batches, central_square, resized, to_tensors
from training.evaluation.benchmark.released import read_text, released
from training.evaluation.metrics import LearnedPerceptualDistance, PeakSignalNoiseRatio, StructuralSimilarity
from training.evaluation.report import Row

SPLITS = ("val",)
SIDE = 256
SOLUTION, NAMES = "LOC_val_solution.csv", ("classnames.txt", "LOC_synset_mapping.txt")


@dataclass(frozen=True)
class SquareExample(Example):
    """An example whose pictures are shown as their central squares, `SIDE` pixels wide."""

    def pictures(self) -> list[Image.Image]:
        return [central_square(picture, SIDE) for picture in super().pictures()]


def read_pictures(data: Path, split: str) -> list[Example]:
    """All pictures in the order of their own names, whatever folder they lie in: so their beginning is a sample."""
    folder = released(data, "val")
    paths = sorted((folder / name for name in pictures_in(folder)), key=lambda path: (path.name, path))
    return [SquareExample(key=str(path.relative_to(folder)), request="", images=(path,)) for path in paths]


def read_names(data: Path, split: str) -> list[Example]:
    """The same with the names of all classes as choices, and the picture's own as the truth. Two classes of one name
    are one choice."""
    examples = read_pictures(data, split)
    names = _class_names(data)
    if all(len(Path(example.key).parts) > 1 for example in examples):
        classes = {example.key: Path(example.key).parts[0] for example in examples}
    else:
        labels = _solution(data)
        classes = {example.key: labels.get(Path(example.key).stem) for example in examples}
    if unknown := [key for key, name in classes.items() if name not in names]:
        raise ValueError(
            f"{unknown[0]} is of class {classes[unknown[0]]!r}, of {len(unknown)} whose name is not known: they come "
            f"from {' or '.join(NAMES)}, and the classes from folders in val or from {SOLUTION}."
        )
    choices = tuple(dict.fromkeys(names.values()))
    return [
        SquareExample(
            key=example.key, request="", images=example.images, truth=names[classes[example.key]], choices=choices
        )
        for example in examples
    ]


def _class_names(data: Path) -> dict[str, str]:
    """Class -> name, of lines such as "n01440764 tench, Tinca tinca", whose first name counts."""
    file = released(data, *NAMES)
    lines = [line.split(maxsplit=1) for line in read_text(file).splitlines() if line.strip()]
    if wrong := [line for line in lines if len(line) != 2]:
        raise ValueError(f"{file} has a line without a name: {' '.join(wrong[0])!r}")
    return {name: names.split(",")[0].strip() for name, names in lines}


def _solution(data: Path) -> dict[str, str]:
    """Name of a picture, without ending -> class."""
    if not (data / SOLUTION).is_file():
        raise ValueError(
            f"{data} has no {SOLUTION}, which says what the pictures show: without it they must lie in folders of "
            "their classes, such as val/n01440764."
        )
    file = data / SOLUTION
    rows = list(csv.DictReader(io.StringIO(read_text(file), newline="")))
    if not rows or not {"ImageId", "PredictionString"} <= rows[0].keys():
        raise ValueError(f"{file} must have the columns ImageId and PredictionString.")
    return {row["ImageId"]: (row["PredictionString"] or "").split(" ")[0] for row in rows}


def score_reconstruction(examples: Sequence[Example], answers: Sequence[Any], networks: Networks) -> dict[str, float]:
    """`psnr` (dB), `ssim`, `lpips_vgg`, and from two pictures on `fid_inception` or `fd_encoder`, of squares of `SIDE`
    pixels: paintings of another size are resized to it."""
    metrics = {"psnr": PeakSignalNoiseRatio(), "ssim": StructuralSimilarity()}
    if (lpips := perceptual_distances(networks)) is not None:
        metrics["lpips_vgg"] = LearnedPerceptualDistance(lpips)
    if len(examples) > 1:
        metrics |= frechet_distances(networks)
    for batch in batches(zip(examples, answers, strict=True)):
        originals = [picture for example, _ in batch for picture in example.pictures()]
        originals = to_tensors(originals, networks.device)
        painted = to_tensors([resized(answer, (SIDE, SIDE)) for _, answer in batch], networks.device)
        for metric in metrics.values():
            metric.add_batch(predictions=painted, references=originals)
    results = {key: next(iter(metric.compute().values())) for key, metric in metrics.items()}
    return {"num_examples": len(examples)} | results


def score_names(examples: Sequence[Example], answers: Sequence[Any], networks: Networks) -> dict[str, float]:
    """`top1`, the part of the pictures that are given their own name, and `top1_chance`."""
    right = sum(answer == example.truth for example, answer in zip(examples, answers, strict=True))
    chance = sum(1 / len(example.choices) for example in examples)
    return {"num_examples": len(examples), "top1": right / len(examples), "top1_chance": chance / len(examples)}


IMAGENET_RECONSTRUCTION = Benchmark(
    name="imagenet-reconstruction",
    answer="reconstruction",
    splits=SPLITS,
    files="the pictures in val, flat or in folders of classes",
    definition="rFID (Heusel et al. 2017) of central squares at 256 x 256, as of tokenizers (Esser et al. 2021); "
    "PSNR, SSIM (Wang et al. 2004), LPIPS (Zhang et al. 2018)",
    read=read_pictures,
    score=score_reconstruction,
    rows=(
        Row("pictures", "num_examples", ".0f"),
        Row("rFID, Inception (less is better)", "fid_inception", ".2f"),
        Row("Fréchet distance, encoder of --features", "fd_encoder", ".2f"),
        Row("PSNR (dB)", "psnr", ".2f"),
        Row("SSIM", "ssim"),
        Row("LPIPS, VGG (less is better)", "lpips_vgg"),
    ),
)
IMAGENET_ZERO_SHOT = Benchmark(
    name="imagenet-zero-shot",
    answer="choice",
    splits=SPLITS,
    files=f"the pictures in val, in folders of classes or flat with {SOLUTION}; names of the classes in "
    f"{' or '.join(NAMES)}",
    definition="zero-shot top-1 (Radford et al. 2021): the class whose name in prompt templates is nearest",
    read=read_names,
    score=score_names,
    rows=(Row("pictures", "num_examples", ".0f"), Row("top-1", "top1", beside={"chance": "top1_chance"})),
)
