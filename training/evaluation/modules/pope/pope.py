"""The five numbers of POPE, for `evaluate.load`."""

import datasets
import evaluate

from training.evaluation.metrics import YesNo  # From: -e "FOLDER_OF_SETOK[eval]"

CITATION = """@inproceedings{li2023pope,
    title={Evaluating Object Hallucination in Large Vision-Language Models},
    author={Li, Yifan and Du, Yifan and Zhou, Kun and Wang, Jinpeng and Zhao, Wayne Xin and Wen, Ji-Rong},
    booktitle={EMNLP},
    year={2023}
}"""
INPUTS = """
Args:
    predictions: list of answers, which count by their first word.
    references: for each "yes" or "no".
Returns:
    accuracy, precision, recall, f1 and yes_ratio, 0 to 1.
"""


class PopeModule(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        answer = datasets.Value("string")
        return evaluate.MetricInfo(
            description="Whether a model sees objects that are not there: accuracy, precision, recall, F1, yes ratio.",
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": answer, "references": answer}),
            reference_urls=["https://arxiv.org/abs/2305.10355"],
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        return YesNo().compute(predictions=predictions, references=references)
