"""How well predicted masks cover what they shall cover."""

from collections.abc import Sequence

import numpy as np

from training.evaluation.metrics.base import Metric

PRECISION_PERCENT = (50, 60, 70, 80, 90)


class ReferringIoU(Metric):
    """{"ciou", "giou", "precision_50" … "precision_90": 0 to 1} of referring segmentation.

    The cumulative IoU is the sum of all intersections over the sum of all unions, so that large objects weigh more; the
    generalised IoU is the mean over the masks of their own IoU (not that of boxes which has the same name). Where
    nothing is to be found and nothing is, it is 1. The precision at 50, 60, 70, 80 and 90 is the part of the masks
    whose IoU is that many percent or more.

    Predictions and references: (H, W) bool masks, of any size that a prediction has in common with its reference.
    """

    def _score_batch(self, predictions: Sequence, references: Sequence) -> list[tuple[int, int]]:
        scores = []
        for prediction, reference in zip(predictions, references, strict=True):
            prediction, reference = np.asarray(prediction), np.asarray(reference)
            _check_mask(prediction)
            _check_mask(reference)
            if prediction.shape != reference.shape:
                raise ValueError(
                    f"A predicted mask is {prediction.shape} and its reference {reference.shape}; resize the "
                    "prediction to the image's own size."
                )
            scores.append((np.count_nonzero(prediction & reference), np.count_nonzero(prediction | reference)))
        return scores

    def _reduce(self, scores: list[tuple[int, int]]) -> dict[str, float]:
        intersections, unions = np.array(scores).T
        nothing = unions == 0
        found = np.where(nothing, 1, intersections)
        of = np.where(nothing, 1, unions)
        return {
            "ciou": 1.0 if nothing.all() else float(intersections.sum() / unions.sum()),
            "giou": float((found / of).mean()),
            # in whole numbers, so that three of five pixels are .6
            **{f"precision_{percent}": float((100 * found >= percent * of).mean()) for percent in PRECISION_PERCENT},
        }


def upsample_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels of patches (h, w) to labels of pixels `size` = (H, W): each pixel gets its centre's patch."""
    rows, columns = ((2 * np.arange(n) + 1) * m // (2 * n) for n, m in zip(size, labels.shape, strict=True))
    return labels[rows[:, None], columns]


def best_union(labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The union of segments that has the largest IoU with a mask: what no choice among the segments can beat.

    The best choice takes all segments whose ratio of pixels inside to pixels outside the mask exceeds some bound, for
    the IoU, (sum inside) / (mask + sum outside), gains from a segment exactly if that ratio is above it. So it is
    found among as many unions as there are segments.

    Args:
        labels: (H, W) integers, the segments; negative: none.
        mask: (H, W) bool, not empty.

    Returns:
        (H, W) bool.
    """
    _check_mask(mask)
    if labels.shape != mask.shape or not mask.any():
        raise ValueError(f"Needed: labels as large as a mask that is not empty, got {labels.shape} and {mask.shape}.")
    known = labels >= 0
    ids, segments = np.unique(labels[known], return_inverse=True)
    if not len(ids):
        return np.zeros_like(mask)
    inside = np.bincount(segments, mask[known], minlength=len(ids))
    size = np.bincount(segments, minlength=len(ids))
    order = np.argsort(-inside / size, kind="stable")
    iou = np.cumsum(inside[order]) / (mask.sum() + np.cumsum((size - inside)[order]))
    return np.isin(labels, ids[order[: iou.argmax() + 1]])


def _check_mask(mask: np.ndarray) -> None:
    if mask.ndim != 2 or mask.dtype != bool:
        raise ValueError(f"A mask must be (H, W) bool, got {mask.shape} {mask.dtype}; threshold logits at 0 first.")
