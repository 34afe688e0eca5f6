"""The adjusted Rand index over the pixels of objects, for `evaluate.load`."""

import datasets
import evaluate

from training.evaluation.metrics import ForegroundAdjustedRandIndex  # From: -e "FOLDER_OF_SETOK[eval]"

CITATION = """@inproceedings{greff2019iodine,
    title={Multi-Object Representation Learning with Iterative Variational Inference},
    author={Greff, Klaus and Kaufman, Rapha{\\"e}l Lopez and Kabra, Rishabh and Watters, Nick and Burgess, Chris and
        Zoran, Daniel and Matthey, Loic and Botvinick, Matthew and Lerchner, Alexander},
    booktitle={ICML},
    year={2019}
}"""
INPUTS = """
Args:
    predictions: list of maps (H, W) of integers from 0 on, one number a segment.
    references: for each the map of the objects: 0 is background.
Returns:
    fg_ari, ari, and fg_ari_several over the pictures with more than one object, if there are any; each up to 1.
"""


class FgAriModule(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        labels = datasets.List(datasets.List(datasets.Value("int64")))
        return evaluate.MetricInfo(
            description="Whether segments are the objects of a picture, whatever happens to its background.",
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": labels, "references": labels}),
            reference_urls=["https://arxiv.org/abs/1903.00450"],
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        return ForegroundAdjustedRandIndex().compute(predictions=predictions, references=references)
