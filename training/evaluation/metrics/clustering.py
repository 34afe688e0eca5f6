"""How well the concept tokens group the patches of an image into its objects."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import spearmanr
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import contingency_matrix

from training.evaluation.metrics.base import Metric


def patch_labels(masks: np.ndarray, grid_size: tuple[int, int]) -> np.ndarray:
    """The object that covers most of each patch.

    Args:
        masks: (n, H, W) bool, one mask per object, in pixels; where masks overlap the later one is on top.
        grid_size: (h, w) patches, which need not divide (H, W): a pixel belongs to the patch that holds its centre.

    Returns:
        (h * w,) int64 in reading order: 0 for background, k + 1 for object k; the smaller label where two are equal.
    """
    masks = np.asarray(masks)
    if masks.ndim != 3 or masks.dtype != bool:
        raise ValueError(f"masks must be (n, H, W) bool, got {masks.shape} {masks.dtype}.")
    (num_objects, height, width), (rows, columns) = masks.shape, grid_size
    if rows > height or columns > width:
        raise ValueError(f"A grid of {rows}×{columns} patches is finer than the masks of {height}×{width} pixels.")
    labels = (masks * np.arange(1, num_objects + 1)[:, None, None]).max(axis=0, initial=0)
    row = (2 * np.arange(height) + 1) * rows // (2 * height)
    column = (2 * np.arange(width) + 1) * columns // (2 * width)
    patch = row[:, None] * columns + column
    num_labels = num_objects + 1
    pixels = np.bincount((patch * num_labels + labels).ravel(), minlength=rows * columns * num_labels)
    return pixels.reshape(-1, num_labels).argmax(axis=1)


class _PartitionMetric(Metric):
    """Mean over images of a score of two partitions. Predictions and references: per image, one integer label per patch
    (arrays (N,)); patches whose predicted label is negative (padding) are left out."""

    name: str

    def _score(self, prediction: np.ndarray, reference: np.ndarray) -> float:
        raise NotImplementedError

    def _score_batch(self, predictions: Sequence, references: Sequence) -> list[float]:
        scores = []
        for prediction, reference in zip(predictions, references, strict=True):
            prediction, reference = np.asarray(prediction), np.asarray(reference)
            if prediction.ndim != 1 or prediction.shape != reference.shape:
                raise ValueError(
                    f"Prediction and reference must both be one label per patch, got {prediction.shape} and "
                    f"{reference.shape}."
                )
            known = prediction >= 0
            if not known.any():
                raise ValueError("An image has no patch with a label.")
            scores.append(float(self._score(prediction[known], reference[known])))
        return scores

    def _reduce(self, scores: list[float]) -> dict[str, float]:
        return {self.name: sum(scores) / len(scores)}


class AdjustedRandIndex(_PartitionMetric):
    """{"ari": up to 1}: 1 for the same partition, 0 on average for independent ones. Background is one segment."""

    name = "ari"

    def _score(self, prediction: np.ndarray, reference: np.ndarray) -> float:
        return adjusted_rand_score(reference, prediction)


class MeanIoU(_PartitionMetric):
    """{"miou": 0 to 1}: clusters and reference segments (background is one) are matched one to one so that the sum of
    IoUs is the largest; then the mean over the image's segments, where one without a cluster counts 0."""

    name = "miou"

    def _score(self, prediction: np.ndarray, reference: np.ndarray) -> float:
        intersection = contingency_matrix(reference, prediction)
        union = intersection.sum(1, keepdims=True) + intersection.sum(0, keepdims=True) - intersection
        iou = intersection / union
        return iou[linear_sum_assignment(iou, maximize=True)].sum() / len(iou)


class RankCorrelation(Metric):
    """{"spearman": −1 to 1}: whether pictures with more objects (references) get more tokens (predictions). Two numbers
    per image; 0 where either never changes, for then there is nothing to see."""

    def _score_batch(self, predictions: Sequence[int], references: Sequence[int]) -> list[tuple[int, int]]:
        return list(zip(np.asarray(predictions).tolist(), np.asarray(references).tolist(), strict=True))

    def _reduce(self, scores: list[tuple[int, int]]) -> dict[str, float]:
        predictions, references = np.asarray(scores).T
        if np.ptp(predictions) == 0 or np.ptp(references) == 0:
            return {"spearman": 0.0}
        return {"spearman": float(spearmanr(predictions, references).statistic)}
