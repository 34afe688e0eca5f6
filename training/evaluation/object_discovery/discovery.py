"""The measurement: methods on the pictures of a world, over seeds."""

from collections.abc import Mapping, Sequence

import numpy as np

from training.evaluation.metrics import (
    BoundaryPrecisionRecall,
    ForegroundAdjustedRandIndex,
    MeanBestOverlap,
    RankCorrelation,
    SegmentationCovering,
    TokenMonosemanticity,
    pixel_labels,
    upsample_labels,
)
from training.evaluation.object_discovery.encoding import Picture
from training.evaluation.object_discovery.methods import FIXED_NUMBER, Method


def measure(
    method: Method, pictures: Sequence[Picture], seed: int, fixed_number: int | None = None
) -> dict[str, float]:
    """All figures of a method on pictures.

    Labels of patches are brought to the picture's own pixels by nearest neighbour, and measured there.

    Args:
        fixed_number: segments in every picture; by default as many as SeTok found in each.

    Returns:
        `fg_ari`, `fg_ari_several`, `ari`, `mbo`, `mbo_with_background`, `sc_fg`, `sc`, `monosemanticity`,
        `boundary_precision`, `boundary_recall` (see `training.evaluation.metrics.discovery`); `segments`, their mean
        number; `spearman` of that number with the number of objects.
    """
    metrics = [
        ForegroundAdjustedRandIndex(),
        MeanBestOverlap(),
        SegmentationCovering(),
        TokenMonosemanticity(),
        BoundaryPrecisionRecall(),
    ]
    count_correlation, counts = RankCorrelation(), []
    for picture in pictures:
        labels = method(picture, fixed_number or picture.num_clusters, seed)
        prediction = upsample_labels(labels, picture.scene.image.shape[:2])
        reference = pixel_labels(picture.scene.masks)
        for metric in metrics:
            metric.add_batch(predictions=[prediction], references=[reference])
        counts.append(len(np.unique(labels)))
        count_correlation.add_batch(predictions=counts[-1:], references=[len(picture.scene.masks)])
    results = {}
    for metric in (*metrics, count_correlation):
        results |= metric.compute()
    return results | {"segments": float(np.mean(counts))}


def compare(methods: Mapping[str, Method], pictures: Sequence[Picture], seed: int) -> dict[str, dict[str, float]]:
    """Method -> its figures."""
    fixed_number = mean_clusters(pictures)
    return {
        name: measure(method, pictures, seed, fixed_number if name in FIXED_NUMBER else None)
        for name, method in methods.items()
    }


def mean_clusters(pictures: Sequence[Picture]) -> int:
    """The mean number of SeTok's clusters in a picture, rounded."""
    return round(float(np.mean([picture.num_clusters for picture in pictures])))


def over_seeds(runs: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, dict[str, float | list[float]]]]:
    """Method -> figure -> its mean, standard deviation (of a sample; 0 for one run) and values over runs."""
    return {
        method: {figure: _summary([run[method][figure] for run in runs if figure in run[method]]) for figure in figures}
        for method, figures in runs[0].items()
    }


def _summary(values: list[float]) -> dict[str, float | list[float]]:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "std": deviation, "values": values}
