"""Measures a SeTok: python -m training.evaluation.evaluate_setok --model model_cards/setok-emoji-tiny"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from modeling_setok import SetokConfig, SetokForPreTraining
from processing import SetokImageProcessor
from training.data import EmojiScenes, Scene, SceneConfig
from training.data.concept_text import learn_concepts
from training.data.setok_rows import load_setok_rows
from training.evaluation.metrics import (
    AdjustedRandIndex,
    CellPower,
    LearnedPerceptualDistance,
    MeanIoU,
    Metric,
    PeakSignalNoiseRatio,
    RankCorrelation,
    RPrecision,
    StructuralSimilarity,
    grid_labels,
    kmeans_labels,
    patch_labels,
)
from training.evaluation.report import HELD_OUT, Row, choose_device, format_rows, mistakes_in_words, write_results
from training.loading import load_whole
from training.losses import PerceptualLoss
from training.packaged_models import lpips_vgg

GROUPINGS = ("setok", "kmeans", "grid")


@dataclass(frozen=True)
class Example:
    """A picture to evaluate on, with what is known of it; a `Scene` can take its place.

    Attributes:
        image: what the image processor takes.
        masks: (n, H, W) bool, its objects; None where they are unknown.
        names: concepts in the image, of those in the model's bank; empty where they are unknown.
        has_held_out_pair: whether it has two objects that no training scene has together.
    """

    image: Image.Image | np.ndarray
    masks: np.ndarray | None = None
    names: Sequence[str] = ()
    has_held_out_pair: bool = False


@torch.no_grad()
def evaluate_setok(
    model: SetokForPreTraining,
    image_processor: SetokImageProcessor,
    examples: Iterable[Example | Scene],
    batch_size: int = 32,
    lpips: PerceptualLoss | None = None,
) -> dict[str, float]:
    """Measures reconstruction, grouping and concept retrieval.

    Args:
        examples: pictures; the image processor must resize without cropping, so that masks stay on their image.
        lpips: of an `LpipsNetwork`, on the model's device.

    Returns:
        Over all examples, and with the prefix `held_out_` over those with a pair of objects that no training scene has:

        - `num_images`; `tokens_mean`, `tokens_min`, `tokens_max`; of the 8-bit pictures `psnr` (dB), `ssim`, `lpips`
          where it is given, `cell_power` and `cell_power_originals`, which tell whether the detokenizer's cells show;
        - of examples with masks: `spearman` of the number of tokens with the number of objects; `setok_ari` and
          `setok_miou` of the concept masks on the patch grid; with `kmeans_` and `grid_` those of k-means on the same
          features and of a chessboard, both with as many clusters as the image has tokens;
        - of examples with names, where the model has a concept bank: `r_precision` of the names in the bank, and
          `r_precision_chance`.
    """
    distances = None if lpips is None else _distances(lpips, model.device)
    groups = {prefix: _Measures(model.config, distances) for prefix in ("", HELD_OUT)}
    was_training = model.training
    model.eval()
    try:
        for batch in _batches(examples, batch_size):
            for example, result in zip(batch, _run_model(model, image_processor, batch), strict=True):
                groups[""].add(example, result)
                if example.has_held_out_pair:
                    groups[HELD_OUT].add(example, result)
    finally:
        model.train(was_training)
    if not groups[""].tokens:
        raise ValueError("There are no examples to evaluate.")
    return {
        prefix + name: value
        for prefix, measures in groups.items()
        if measures.tokens
        for name, value in measures.compute().items()
    }


@dataclass(frozen=True)
class _Result:
    """What the model makes of one example."""

    original: Tensor  # (1, 3, S, S) in [0, 1]
    reconstruction: Tensor  # (1, 3, S, S) in [0, 1]
    num_tokens: int
    cluster_ids: np.ndarray  # (N,)
    features: np.ndarray  # (N, Dv)
    grid_size: tuple[int, int]
    concept_scores: Tensor | None  # (1, V)

    @cached_property
    def groupings(self) -> dict[str, np.ndarray]:
        """Labels (N,) of the patches by SeTok and by the baselines with as many clusters."""
        return {
            "setok": self.cluster_ids,
            "kmeans": kmeans_labels(self.features, self.num_tokens, num_init=4),
            "grid": grid_labels(self.grid_size, self.num_tokens),
        }


def _run_model(
    model: SetokForPreTraining, image_processor: SetokImageProcessor, examples: Sequence[Example | Scene]
) -> list[_Result]:
    pixel_values = image_processor([example.image for example in examples], return_tensors="pt")["pixel_values"]
    pixel_values = pixel_values.to(model.device, model.dtype)
    outputs = model.setok(pixel_values)
    painted = model.detokenize(outputs.last_hidden_state, outputs.token_mask)
    concept_scores = None
    if model.config.concept_names:
        concept_scores = model.concept_logits(outputs.last_hidden_state, outputs.token_mask).float().cpu()
    reconstructions = image_processor.postprocess(painted)
    originals = image_processor.postprocess(pixel_values, target_sizes=[painted.shape[-2:]] * len(examples))
    features = model.setok.token_clustering.clustering_features(outputs.patch_embeddings).float().cpu().numpy()
    cluster_ids = outputs.cluster_ids.cpu().numpy()
    return [
        _Result(
            original=_to_tensor(originals[i]),
            reconstruction=_to_tensor(reconstructions[i]),
            num_tokens=int(outputs.num_tokens[i]),
            cluster_ids=cluster_ids[i],
            features=features[i],
            grid_size=tuple(outputs.grid_size),
            concept_scores=None if concept_scores is None else concept_scores[i : i + 1],
        )
        for i in range(len(examples))
    ]


class _Measures:
    """All metrics over one group of examples."""

    def __init__(self, config: SetokConfig, distances: Callable | None):
        self.concept_index = {name: index for index, name in enumerate(config.concept_names or ())}
        self.tokens: list[int] = []
        self.reconstruction: list[Metric] = [PeakSignalNoiseRatio(), StructuralSimilarity()]
        if distances is not None:
            self.reconstruction.append(LearnedPerceptualDistance(distances))
        cells = config.detokenizer_config.grid_size
        if 2 <= cells <= config.detokenizer_config.image_size // 2:  # others cannot show
            self.reconstruction.append(CellPower(cells))
        self.rank_correlation = RankCorrelation()
        self.groupings = {name: [AdjustedRandIndex(), MeanIoU()] for name in GROUPINGS}
        self.retrieval = RPrecision()

    def add(self, example: Example | Scene, result: _Result) -> None:
        self.tokens.append(result.num_tokens)
        for metric in self.reconstruction:
            metric.add_batch(predictions=result.reconstruction, references=result.original)
        if example.masks is not None:
            self.rank_correlation.add_batch(predictions=[result.num_tokens], references=[len(example.masks)])
            truth = patch_labels(example.masks, result.grid_size)
            for name, metrics in self.groupings.items():
                for metric in metrics:
                    metric.add_batch(predictions=[result.groupings[name]], references=[truth])
        if example.names and result.concept_scores is not None:
            unknown = sorted(set(example.names) - self.concept_index.keys())
            if unknown:
                raise ValueError(f"The model's concept bank lacks {unknown}; leave out names that it does not know.")
            concepts = [self.concept_index[name] for name in example.names]
            self.retrieval.add_batch(predictions=result.concept_scores, references=[concepts])

    def compute(self) -> dict[str, float]:
        results = {
            "num_images": len(self.tokens),
            "tokens_mean": sum(self.tokens) / len(self.tokens),
            "tokens_min": min(self.tokens),
            "tokens_max": max(self.tokens),
        }
        for metric in [*self.reconstruction, self.rank_correlation, self.retrieval]:
            results |= metric.compute() if len(metric) else {}
        for name, metrics in self.groupings.items():
            for metric in metrics:
                results |= {f"{name}_{key}": value for key, value in metric.compute().items()} if len(metric) else {}
        return results


def _distances(lpips: PerceptualLoss, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """Of pictures (B, 3, S, S) in [0, 1] their LPIPS (B,). It is the costliest of all measures, and the last result is
    kept: an example with a held-out pair is measured in both groups."""

    @lru_cache(maxsize=1)
    def distances(*pictures: Tensor) -> Tensor:
        return lpips.distances(*(2 * picture.to(device) - 1 for picture in pictures))

    return distances


def _batches(examples: Iterable, batch_size: int) -> Iterator[list]:
    iterator = iter(examples)
    while batch := list(islice(iterator, batch_size)):
        yield batch


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


ROWS = [
    Row("pictures", "num_images", ".0f"),
    Row("reconstruction: PSNR (dB)", "psnr", ".2f"),
    Row("reconstruction: SSIM", "ssim"),
    Row("reconstruction: LPIPS, VGG (less is better)", "lpips"),
    Row("reconstruction: grid of its cells (none: 1)", "cell_power", ".2f", {"originals": "cell_power_originals"}),
    Row("tokens: mean", "tokens_mean", ".1f", {"least": "tokens_min", "most": "tokens_max"}),
    Row("tokens and objects: Spearman", "spearman"),
    Row("masks: ARI", "setok_ari", beside={"k-means on the same features": "kmeans_ari", "grid": "grid_ari"}),
    Row("masks: mIoU", "setok_miou", beside={"k-means on the same features": "kmeans_miou", "grid": "grid_miou"}),
    Row("concept retrieval: R-precision", "r_precision", beside={"chance": "r_precision_chance"}),
]


def format_table(results: dict[str, float]) -> str:
    """The table of what `evaluate_setok` returned."""
    return format_rows(ROWS, results)


@dataclass
class Arguments:
    model: str = field(metadata={"help": "folder or Hub id of a SeTok with its image processor"})
    data: str | None = field(
        default=None,
        metadata={
            "help": "measured instead of EmojiScenes: what train_setok.py takes as its dataset, a folder of pictures, "
            "with data.json or without, or a Hub id; what needs masks or names is left out of rows without"
        },
    )
    eval_examples: int | None = field(
        default=None,
        metadata={"help": "only the first rows of --data: as many as the recipe's eval_examples kept from training"},
    )
    text_encoder: str | None = field(
        default=None,
        metadata={"help": "text_model_name_or_path of the training, for names in --data that the SeTok lacks"},
    )
    num_scenes: int = field(default=500, metadata={"help": "number of EmojiScenes"})
    split: str = field(
        default="test", metadata={"help": "train, validation or test; of a Hub id without --eval_examples its own"}
    )
    vocabulary: str = field(default="tiny", metadata={"help": "objects in the scenes: tiny (60), full (144) or large"})
    styles: list[str] = field(
        default_factory=lambda: ["noto"], metadata={"help": "how they are drawn: some of noto, twemoji, openmoji"}
    )
    min_objects: int = field(default=SceneConfig.min_objects, metadata={"help": "least number of objects in a scene"})
    max_objects: int = field(default=SceneConfig.max_objects, metadata={"help": "largest number of objects in a scene"})
    seed: int = field(default=0, metadata={"help": "seed of the scenes"})
    batch_size: int = field(default=32, metadata={"help": "scenes per forward pass"})
    lpips: str | None = field(
        default=None,
        metadata={"help": f"network of LPIPS; default: {lpips_vgg.FILE}, if {lpips_vgg.COMMAND} has put it there"},
    )
    device: str | None = field(default=None, metadata={"help": "default: the accelerator, or the CPU without one"})
    output: str | None = field(default=None, metadata={"help": "JSON file for the results"})


@mistakes_in_words()
def main() -> None:
    (arguments,) = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses()
    device = choose_device(arguments.device)
    model = load_whole(SetokForPreTraining.from_pretrained, arguments.model, "setok").to(device)
    image_processor = SetokImageProcessor.from_pretrained(arguments.model)
    if arguments.lpips is None and lpips_vgg.FILE.exists():
        arguments.lpips = str(lpips_vgg.FILE)
    lpips = None if arguments.lpips is None else PerceptualLoss.lpips(arguments.lpips).to(device)
    data = None
    if arguments.data:
        rows, source = _rows_of(arguments)
        data = {"name": _name(arguments.data), "rows": source}
        if any(names := rows["concepts"]) and (model.config.concept_names or arguments.text_encoder):
            learn_concepts(model, (name for of_row in names for name in of_row), arguments.text_encoder)
        examples = map(_example, tqdm(rows, desc="pictures", leave=False))
    else:
        source = f"EmojiScenes, split {arguments.split}"
        config = SceneConfig(
            image_size=image_processor.size["height"],
            vocabulary=arguments.vocabulary,
            styles=tuple(arguments.styles),
            min_objects=arguments.min_objects,
            max_objects=arguments.max_objects,
        )
        scenes = EmojiScenes(arguments.split, arguments.num_scenes, config, seed=arguments.seed)
        examples = (scenes.scene(index) for index in tqdm(range(len(scenes)), desc="scenes", leave=False))
    start = time.perf_counter()
    results = evaluate_setok(model, image_processor, examples, arguments.batch_size, lpips)
    results["seconds"] = time.perf_counter() - start
    print(f"{arguments.model} on {source}, {results['seconds']:.0f} s\n")
    print(format_table(results))
    if lpips is None:
        print(f"\nLPIPS is left out: {lpips_vgg.COMMAND} fetches its network.")
    if arguments.output:
        write_results(arguments.output, arguments, results, data)


def _rows_of(arguments: Arguments) -> tuple[datasets.Dataset, str]:
    """The rows to measure, and in words which these are."""
    count, name = arguments.eval_examples, _name(arguments.data)
    if count is not None:
        rows = load_setok_rows(arguments.data)
        if not 1 <= count <= len(rows):
            raise ValueError(f"eval_examples must be from 1 to {len(rows)}, the number of rows, got {count}.")
        told = f"the first {count} of {len(rows)} rows of {name}, which training keeps for this where its eval_examples"
        return rows.select(range(count)), f"{told} is {count}"
    rows = load_setok_rows(arguments.data, arguments.split)
    if Path(arguments.data).is_dir():
        return rows, f"all {len(rows)} rows of {name}, and whether training saw them is not known"
    kept = ", which is what training reads" if arguments.split.startswith("train") else ""
    return rows, f"{len(rows)} rows of {name}, split {arguments.split}{kept}"


def _name(data: str) -> str:
    """Of a folder its own name, without those above it."""
    return Path(data).name if Path(data).is_dir() else data


def _example(row: dict) -> Example:
    """Of a row of `schema.FEATURES`; of those of task "concepts" the masks are those of all objects."""
    masks = None
    if row["task"] == "concepts" and row["masks"]:
        masks = np.stack([np.asarray(mask) > 0 for mask in row["masks"]])
    return Example(row["images"][0], masks, row["concepts"])


if __name__ == "__main__":
    main()
