"""Metrics with the interface of the `evaluate` library: of SeTok (reconstruction, grouping, concept retrieval), of
object discovery, of Setokim (words, masks, painted pictures), and those of public benchmarks."""

from training.evaluation.metrics.base import Metric
from training.evaluation.metrics.baselines import grid_labels, kmeans_labels
from training.evaluation.metrics.captions import CaptionScores, RougeL, caption_tokens
from training.evaluation.metrics.clustering import AdjustedRandIndex, MeanIoU, RankCorrelation, patch_labels
from training.evaluation.metrics.discovery import (
    BoundaryPrecisionRecall,
    ForegroundAdjustedRandIndex,
    MeanBestOverlap,
    SegmentationCovering,
    TokenMonosemanticity,
    pixel_labels,
)
from training.evaluation.metrics.language import AnswerAccuracy, Mentions, ObjectF1, YesNo, normalize_answer
from training.evaluation.metrics.mme import MmeScores
from training.evaluation.metrics.painting import (
    AskedFound,
    FeatureSimilarity,
    InPlace,
    MeanAbsoluteError,
    MeanSquaredError,
    ranked_concepts,
)
from training.evaluation.metrics.reconstruction import (
    CellPower,
    FrechetDistance,
    LearnedPerceptualDistance,
    PeakSignalNoiseRatio,
    StructuralSimilarity,
)
from training.evaluation.metrics.retrieval import RPrecision
from training.evaluation.metrics.segmentation import ReferringIoU, best_union, upsample_labels
from training.evaluation.metrics.vqa import GqaAccuracy, VqaAccuracy, normalize_vqa_answer

__all__ = [
    "AdjustedRandIndex",
    "AnswerAccuracy",
    "AskedFound",
    "BoundaryPrecisionRecall",
    "CaptionScores",
    "CellPower",
    "FeatureSimilarity",
    "ForegroundAdjustedRandIndex",
    "FrechetDistance",
    "GqaAccuracy",
    "InPlace",
    "LearnedPerceptualDistance",
    "MeanAbsoluteError",
    "MeanBestOverlap",
    "MeanIoU",
    "MeanSquaredError",
    "Mentions",
    "Metric",
    "MmeScores",
    "ObjectF1",
    "PeakSignalNoiseRatio",
    "RPrecision",
    "RankCorrelation",
    "ReferringIoU",
    "RougeL",
    "SegmentationCovering",
    "StructuralSimilarity",
    "TokenMonosemanticity",
    "VqaAccuracy",
    "YesNo",
    "best_union",
    "caption_tokens",
    "grid_labels",
    "kmeans_labels",
    "normalize_answer",
    "normalize_vqa_answer",
    "patch_labels",
    "pixel_labels",
    "ranked_concepts",
    "upsample_labels",
]
