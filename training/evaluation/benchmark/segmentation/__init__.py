"""Benchmarks whose answers are masks."""

from training.evaluation.benchmark.segmentation.reason_seg import REASON_SEG
from training.evaluation.benchmark.segmentation.refcoco import REFCOCO, REFCOCO_PLUS, REFCOCOG

BENCHMARKS = (REFCOCO, REFCOCO_PLUS, REFCOCOG, REASON_SEG)
