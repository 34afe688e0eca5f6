"""Whether segments of a picture are its objects, measured pixel by pixel as work on object discovery does.

Predictions and references of all metrics here: per image, a map (H, W) of integers from 0 on. In a prediction each
number is a segment; in a reference 0 is background and k > 0 object k (`pixel_labels` makes it of masks). Results are
means over images. Background is what no object covers, not what a method took for it.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import maximum_filter, minimum_filter

from training.evaluation.metrics.base import Metric

# EPOC's released evaluation (arXiv 2402.14327) takes 5 and 25 pixels in pictures of 1,024
BOUNDARY_TOLERANCE = 5 / 1024
MONOSEMANTICITY_TOLERANCE = 25 / 1024


def pixel_labels(masks: np.ndarray) -> np.ndarray:
    """Masks (n, H, W) bool of objects, of which a later one lies over an earlier one, to labels (H, W) int64: 0 is
    background, k + 1 object k."""
    masks = np.asarray(masks)
    if masks.ndim != 3 or masks.dtype != bool:
        raise ValueError(f"masks must be (n, H, W) bool, got {masks.shape} {masks.dtype}.")
    return (masks * np.arange(1, len(masks) + 1)[:, None, None]).max(axis=0, initial=0)


class _MapMetric(Metric):
    """A metric whose score of an image is a tuple of numbers, one for each name."""

    names: tuple[str, ...]

    def _score(self, prediction: np.ndarray, reference: np.ndarray) -> tuple[float, ...]:
        raise NotImplementedError

    def _score_batch(self, predictions: Sequence, references: Sequence) -> list[tuple[float, ...]]:
        return [self._score(*_checked(*pair)) for pair in zip(predictions, references, strict=True)]

    def _reduce(self, scores: list[tuple[float, ...]]) -> dict[str, float]:
        return dict(zip(self.names, np.mean(scores, axis=0).tolist(), strict=True))


class ForegroundAdjustedRandIndex(_MapMetric):
    """{"fg_ari": up to 1, "ari": up to 1, "fg_ari_several": up to 1}: the adjusted Rand index over the pixels of
    objects, and over all pixels with the background as one more segment.

    FG-ARI drops the pixels whose true label is background, as in IODINE and Slot Attention: it sees whether objects are
    kept apart and whole, not whether their outlines are right. Of an image with one object it is 1 if that is in one
    segment, and 0 if a single pixel is not: no method whose segments are made of patches has 1. `fg_ari_several` is
    the mean over the images with more objects; it is left out where there are none.
    """

    names = ("fg_ari", "ari")

    def _score(self, prediction: np.ndarray, reference: np.ndarray) -> tuple[float, float, bool]:
        counts = _contingency(prediction, reference)
        several = np.count_nonzero(counts[1:].sum(1)) > 1
        return _adjusted_rand_index(counts[1:]), _adjusted_rand_index(counts), several

    def _reduce(self, scores: list[tuple[float, float, bool]]) -> dict[str, float]:
        several = [fg_ari for fg_ari, _, has_several in scores if has_several]
        results = super()._reduce([score[:2] for score in scores])
        return results | ({"fg_ari_several": float(np.mean(several))} if several else {})


class MeanBestOverlap(_MapMetric):
    """{"mbo": 0 to 1, "mbo_with_background": 0 to 1}: for each true object the best IoU that any segment has with it;
    the mean over the objects of an image. Nothing is matched: one segment may serve several objects.

    With background the background counts as one more object. Segments are taken whole, with what they cover of the
    background. This is mBO of DINOSAUR (arXiv 2209.14860), and for such maps, where no pixel is in two segments, also
    the unweighted mean segmentation covering of GENESIS: its MSC-FG leaves out the true background as an object to be
    covered, but (as its released code computes it) no pixels of a segment.
    """

    names = ("mbo", "mbo_with_background")

    def _score(self, prediction: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
        size, best = _best_overlaps(_contingency(prediction, reference))
        return best[1:][size[1:] > 0].mean(), best[size > 0].mean()


class SegmentationCovering(_MapMetric):
    """{"sc_fg": 0 to 1, "sc": 0 to 1}: like `MeanBestOverlap`, but an object's best IoU weighs as much as it has pixels
    (the covering of Arbeláez et al., 2011), over objects and over objects and background."""

    names = ("sc_fg", "sc")

    def _score(self, prediction: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
        size, best = _best_overlaps(_contingency(prediction, reference))
        return np.average(best[1:], weights=size[1:]), np.average(best, weights=size)


class TokenMonosemanticity(_MapMetric):
    """{"monosemanticity": 0 to 1}: the share of segments that lie in one true region, as EPOC (arXiv 2402.14327) asks.

    A segment does if no true boundary runs through it further inside than the tolerance, which forgives outlines that
    are a little off. Background is a region, too. A segment that is nowhere wider than twice the tolerance passes.

    Args:
        tolerance: share of the picture's longer side, rounded to pixels and at least one.
    """

    names = ("monosemanticity",)

    def __init__(self, tolerance: float = MONOSEMANTICITY_TOLERANCE):
        super().__init__()
        self.tolerance = _checked_tolerance(tolerance)

    def _score(self, prediction: np.ndarray, reference: np.ndarray) -> tuple[float]:
        reach = _pixels(self.tolerance, prediction)
        crossed = np.unique(prediction[_same_around(prediction, reach) & _boundary(reference)])
        return (1 - len(crossed) / len(np.unique(prediction)),)


class BoundaryPrecisionRecall(_MapMetric):
    """{"boundary_precision": 0 to 1, "boundary_recall": 0 to 1}: the share of predicted boundary pixels with a true one
    near, and the share of true ones with a predicted one near. Near is at most the tolerance in both axes.

    A boundary pixel has a neighbour, left, right, above or below, with another label. Precision is 1 where none is
    predicted, recall is 1 where there is none.

    Args:
        tolerance: share of the picture's longer side, rounded to pixels and at least one.
    """

    names = ("boundary_precision", "boundary_recall")

    def __init__(self, tolerance: float = BOUNDARY_TOLERANCE):
        super().__init__()
        self.tolerance = _checked_tolerance(tolerance)

    def _score(self, prediction: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
        reach = _pixels(self.tolerance, prediction)
        predicted, true = _boundary(prediction), _boundary(reference)
        return _share_near(predicted, true, reach), _share_near(true, predicted, reach)


def _checked(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    maps = np.asarray(prediction), np.asarray(reference)
    if maps[0].ndim != 2 or maps[0].shape != maps[1].shape:
        raise ValueError(
            f"Prediction and reference must both be maps (H, W) of one size, got {maps[0].shape} and {maps[1].shape}; "
            "bring labels of patches to pixels with upsample_labels."
        )
    if not all(np.issubdtype(labels.dtype, np.integer) for labels in maps):
        raise ValueError(f"Maps must hold integers, got {maps[0].dtype} and {maps[1].dtype}.")
    if not maps[1].any():
        raise ValueError("A reference has no object, all its pixels are background: leave such images out.")
    if min(maps[0].min(), maps[1].min()) < 0:
        raise ValueError("A map has a negative label; every pixel needs a segment, or the background's 0.")
    return maps


def _contingency(prediction: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(largest true label + 1, segments) int64: pixels of each true region in each segment."""
    segments = np.unique(prediction, return_inverse=True)[1].ravel()
    num_true, num_segments = int(reference.max()) + 1, int(segments.max()) + 1
    pairs = reference.ravel() * num_segments + segments
    return np.bincount(pairs, minlength=num_true * num_segments).reshape(num_true, num_segments)


def _adjusted_rand_index(counts: np.ndarray) -> float:
    """Hubert and Arabie's index of a contingency table; 1 where both partitions are one segment, or all single."""
    together, in_rows, in_columns = (_pairs(values) for values in (counts, counts.sum(1), counts.sum(0)))
    all_pairs = _pairs(counts.sum(keepdims=True))
    expected = in_rows * in_columns / max(all_pairs, 1)
    largest = (in_rows + in_columns) / 2
    return 1.0 if largest == expected else (together - expected) / (largest - expected)


def _pairs(counts: np.ndarray) -> float:
    counts = counts.astype(np.float64)
    return float((counts * (counts - 1)).sum() / 2)


def _best_overlaps(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each true region, and the best IoU that a segment has with it."""
    size = counts.sum(1)
    union = size[:, None] + counts.sum(0) - counts
    return size, (counts / np.maximum(union, 1)).max(1)


def _checked_tolerance(tolerance: float) -> float:
    if not 0 < tolerance < 0.5:
        raise ValueError(f"tolerance is a share of the picture's side, above 0 and below 0.5, got {tolerance}.")
    return tolerance


def _pixels(tolerance: float, labels: np.ndarray) -> int:
    return max(1, round(tolerance * max(labels.shape)))


def _boundary(labels: np.ndarray) -> np.ndarray:
    """(H, W) bool: pixels with another label left, right, above or below."""
    boundary = np.zeros(labels.shape, dtype=bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    boundary[:, 1:] |= across
    boundary[:, :-1] |= across
    boundary[1:] |= down
    boundary[:-1] |= down
    return boundary


def _same_around(labels: np.ndarray, reach: int) -> np.ndarray:
    """(H, W) bool: pixels whose square of `reach` to each side, as far as it is in the picture, has one label."""
    size = 2 * reach + 1
    return maximum_filter(labels, size, mode="nearest") == minimum_filter(labels, size, mode="nearest")


def _share_near(pixels: np.ndarray, others: np.ndarray, reach: int) -> float:
    if not pixels.any():
        return 1.0
    near = maximum_filter(others, 2 * reach + 1, mode="constant", cval=False)
    return float(near[pixels].mean())
