"""Metrics with the interface of the `evaluate` library: of SeTok (reconstruction, grouping, concept retrieval) and of
Setokim (words, masks, painted pictures)."""

from training.metrics.base import Metric
from training.metrics.baselines import grid_labels, kmeans_labels
from training.metrics.clustering import AdjustedRandIndex, MeanIoU, RankCorrelation, patch_labels
from training.metrics.language import AnswerAccuracy, Mentions, ObjectF1, YesNo, normalize_answer
from training.metrics.painting import AskedFound, MeanAbsoluteError
from training.metrics.reconstruction import FrechetDistance, PeakSignalNoiseRatio, StructuralSimilarity
from training.metrics.retrieval import RPrecision
from training.metrics.segmentation import ReferringIoU, best_union, upsample_labels

__all__ = [
    "AdjustedRandIndex",
    "AnswerAccuracy",
    "AskedFound",
    "FrechetDistance",
    "MeanAbsoluteError",
    "MeanIoU",
    "Mentions",
    "Metric",
    "ObjectF1",
    "PeakSignalNoiseRatio",
    "RPrecision",
    "RankCorrelation",
    "ReferringIoU",
    "StructuralSimilarity",
    "YesNo",
    "best_union",
    "grid_labels",
    "kmeans_labels",
    "normalize_answer",
    "patch_labels",
    "upsample_labels",
]
