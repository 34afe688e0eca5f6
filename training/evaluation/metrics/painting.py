"""Whether a painted picture is what was asked for."""

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from training.evaluation.metrics.base import Metric
from training.evaluation.metrics.reconstruction import check_images


class AskedFound(Metric):
    """{"found": 0 to 1, "found_chance": …}: of the concepts that were asked for, the part among the k that score
    highest in the painted picture, where k is the number of concepts that it should show; mean over pictures. By chance
    it is k / V. Where everything in the picture was asked for, it is the R-precision.

    Predictions: scores (B, V) of every concept for every picture. References: per picture the indices of the concepts
    that were asked for, and k.
    """

    def _score_batch(
        self, predictions: Tensor, references: Sequence[tuple[Collection[int], int]]
    ) -> list[tuple[float, float]]:
        if predictions.ndim != 2 or predictions.isnan().any():
            raise ValueError(f"Scores must be (pictures, concepts) without NaN, got {tuple(predictions.shape)}.")
        num_concepts = predictions.shape[1]
        scores = []
        for ranked, (asked, k) in zip(ranked_concepts(predictions), references, strict=True):
            asked = set(asked)
            if not asked or not asked <= set(ranked) or not len(asked) <= k <= num_concepts:
                raise ValueError(
                    f"Needed: one concept or more of the {num_concepts} that have scores, and k from their number to "
                    f"{num_concepts}; got {sorted(asked)} and {k}."
                )
            scores.append((len(asked.intersection(ranked[:k])) / len(asked), k / num_concepts))
        return scores

    def _reduce(self, scores: list[tuple[float, float]]) -> dict[str, float]:
        found, chance = (sum(column) / len(scores) for column in zip(*scores, strict=True))
        return {"found": found, "found_chance": chance}


def ranked_concepts(scores: Tensor) -> list[list[int]]:
    """The concepts of pictures by their scores (B, V), the highest first; equal ones alike on every device."""
    return scores.sort(dim=1, descending=True, stable=True).indices.tolist()


class InPlace(Metric):
    """{"placed": 0 to 1}: the part of the places that are no further from the true ones than a quarter of the picture's
    side. Predictions and references: (x, y) of each picture, from 0 to 1; a prediction is None where nothing was found.
    """

    NEAR = 0.25

    def _score_batch(
        self, predictions: Sequence[tuple[float, float] | None], references: Sequence[tuple[float, float]]
    ) -> list[bool]:
        return [
            found is not None and math.dist(found, true) <= self.NEAR
            for found, true in zip(predictions, references, strict=True)
        ]

    def _reduce(self, scores: list[bool]) -> dict[str, float]:
        return {"placed": sum(scores) / len(scores)}


class MeanAbsoluteError(Metric):
    """{"l1": 0 to 1}: mean over pictures of the absolute difference of their pixels. Predictions and references: float
    tensors (B, 3, H, W) in [0, 1]."""

    def _score_batch(self, predictions: Tensor, references: Tensor) -> list[float]:
        check_images(predictions, references)
        return torch.nn.functional.l1_loss(predictions, references, reduction="none").mean(dim=(1, 2, 3)).tolist()

    def _reduce(self, scores: list[float]) -> dict[str, float]:
        return {"l1": sum(scores) / len(scores)}


class MeanSquaredError(Metric):
    """{"l2": 0 to 1}: the same of the squares of the differences; MagicBrush's "L2"."""

    def _score_batch(self, predictions: Tensor, references: Tensor) -> list[float]:
        check_images(predictions, references)
        return torch.nn.functional.mse_loss(predictions, references, reduction="none").mean(dim=(1, 2, 3)).tolist()

    def _reduce(self, scores: list[float]) -> dict[str, float]:
        return {"l2": sum(scores) / len(scores)}


class FeatureSimilarity(Metric):
    """{"similarity": -1 to 1}: mean over pairs of the cosine of their features, such as CLIP's of a picture and its
    caption, or of a painted picture and the true one. Predictions and references: (B, D)."""

    def _score_batch(self, predictions: Tensor, references: Tensor) -> list[float]:
        if predictions.ndim != 2 or predictions.shape != references.shape:
            raise ValueError(f"Features must be (B, D), got {tuple(predictions.shape)} and {tuple(references.shape)}.")
        return torch.nn.functional.cosine_similarity(predictions, references).tolist()

    def _reduce(self, scores: list[float]) -> dict[str, float]:
        return {"similarity": sum(scores) / len(scores)}
