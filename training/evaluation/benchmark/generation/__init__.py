"""Benchmarks whose answers are pictures, and ImageNet, by which a SeTok alone is measured."""

from training.evaluation.benchmark.generation.coco import COCO_TEXT_TO_IMAGE
from training.evaluation.benchmark.generation.editing import EVR, MA5K, MAGIC_BRUSH, MAGIC_BRUSH_MULTI_TURN
from training.evaluation.benchmark.generation.imagenet import IMAGENET_RECONSTRUCTION, IMAGENET_ZERO_SHOT

BENCHMARKS = (
    COCO_TEXT_TO_IMAGE,
    IMAGENET_RECONSTRUCTION,
    IMAGENET_ZERO_SHOT,
    MAGIC_BRUSH,
    MAGIC_BRUSH_MULTI_TURN,
    EVR,
    MA5K,
)
