"""Benchmarks whose answers are words: questions about pictures, captions, and questions of general knowledge."""

from training.evaluation.benchmark.understanding.captions import COCO_CAPTIONS, FLICKR30K
from training.evaluation.benchmark.understanding.easy_vqa import EASY_VQA
from training.evaluation.benchmark.understanding.gqa import GQA
from training.evaluation.benchmark.understanding.iconqa import ICONQA_BLANK, ICONQA_PICTURES, ICONQA_TEXTS
from training.evaluation.benchmark.understanding.mm_vet import MM_VET
from training.evaluation.benchmark.understanding.mme import MME
from training.evaluation.benchmark.understanding.mmlu import MMLU
from training.evaluation.benchmark.understanding.pope import POPE
from training.evaluation.benchmark.understanding.vqa import AOKVQA, OKVQA, VIZWIZ, VQAV2

BENCHMARKS = (
    VQAV2, OKVQA, AOKVQA, VIZWIZ, GQA, POPE, MME, MM_VET, ICONQA_TEXTS, ICONQA_PICTURES, ICONQA_BLANK, COCO_CAPTIONS,
    FLICKR30K, MMLU, EASY_VQA,
)  # fmt: skip
