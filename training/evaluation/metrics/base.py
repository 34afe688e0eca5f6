"""What all metrics share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any


class Metric(ABC):
    """Has `evaluate.Metric`'s `add_batch` and `compute`, but keeps a few numbers per example in memory, where that
    class writes every prediction (here whole images) to a file on disk.

    A metric gives `_score_batch`, the scores of a batch, and `_reduce`, the result from all scores so far.
    """

    def __init__(self):
        self._scores: list = []

    def __len__(self) -> int:
        """Number of examples added."""
        return len(self._scores)

    def add_batch(self, *, predictions: Sequence, references: Sequence) -> None:
        """Adds examples, as many predictions as references."""
        if len(predictions) != len(references):
            raise ValueError(
                f"{type(self).__name__} needs one reference per prediction, "
                f"got {len(predictions)} predictions and {len(references)} references."
            )
        if len(predictions):
            self._scores.extend(self._score_batch(predictions, references))

    def compute(self, *, predictions: Sequence | None = None, references: Sequence | None = None) -> dict[str, float]:
        """The result over all examples added, and over these; then forgets them."""
        if (predictions is None) != (references is None):
            raise ValueError(f"{type(self).__name__} needs both predictions and references, or neither.")
        if predictions is not None:
            self.add_batch(predictions=predictions, references=references)
        if not self._scores:
            raise ValueError(f"{type(self).__name__} has seen no example; call add_batch before compute.")
        scores, self._scores = self._scores, []
        return self._reduce(scores)

    @abstractmethod
    def _score_batch(self, predictions: Sequence, references: Sequence) -> Sequence[Any]: ...

    @abstractmethod
    def _reduce(self, scores: list) -> dict[str, float]: ...
