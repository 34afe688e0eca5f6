"""How well the concept tokens tell which objects are in an image."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from training.evaluation.metrics.base import Metric


class RPrecision(Metric):
    """{"r_precision": 0 to 1, "r_precision_chance": …}: of the R concepts that score highest, where R is the number of
    true ones, the part that is true; mean over images. By chance it is R / V.

    Predictions: scores (B, V) of every concept for every image. References: per image the indices of its concepts.
    """

    def _score_batch(self, predictions: Tensor, references: Sequence[Collection[int]]) -> list[tuple[float, float]]:
        predictions = torch.as_tensor(predictions)
        if predictions.ndim != 2 or predictions.isnan().any():
            raise ValueError(f"Scores must be (images, concepts) without NaN, got {tuple(predictions.shape)}.")
        num_concepts = predictions.shape[1]
        # Stable, so that equal scores rank the same on every device.
        ranking = predictions.sort(dim=1, descending=True, stable=True).indices.tolist()
        scores = []
        for ranked, reference in zip(ranking, references, strict=True):
            true = set(reference)
            if not true:
                raise ValueError("An image without a concept has no R-precision; leave it out.")
            if not true <= set(range(num_concepts)):
                raise ValueError(f"Concepts {sorted(true)} are not all among the {num_concepts} that have scores.")
            found = true.intersection(ranked[: len(true)])
            scores.append((len(found) / len(true), len(true) / num_concepts))
        return scores

    def _reduce(self, scores: list[tuple[float, float]]) -> dict[str, float]:
        precision, chance = (sum(column) / len(scores) for column in zip(*scores, strict=True))
        return {"r_precision": precision, "r_precision_chance": chance}
