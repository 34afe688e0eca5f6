"""Metrics of reconstruction, grouping and concept retrieval, with the interface of the `evaluate` library."""

from training.metrics.base import Metric
from training.metrics.baselines import grid_labels, kmeans_labels
from training.metrics.clustering import AdjustedRandIndex, MeanIoU, RankCorrelation, patch_labels
from training.metrics.reconstruction import FrechetDistance, PeakSignalNoiseRatio, StructuralSimilarity
from training.metrics.retrieval import RPrecision

__all__ = [
    "AdjustedRandIndex",
    "FrechetDistance",
    "MeanIoU",
    "Metric",
    "PeakSignalNoiseRatio",
    "RPrecision",
    "RankCorrelation",
    "StructuralSimilarity",
    "grid_labels",
    "kmeans_labels",
    "patch_labels",
]
