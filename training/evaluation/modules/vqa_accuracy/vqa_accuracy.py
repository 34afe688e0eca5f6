"""The VQA accuracy, for `evaluate.load`."""

import datasets
import evaluate

from training.evaluation.metrics import VqaAccuracy  # From: -e "FOLDER_OF_SETOK[eval]"

CITATION = """@inproceedings{antol2015vqa,
    title={{VQA}: Visual Question Answering},
    author={Antol, Stanislaw and Agrawal, Aishwarya and Lu, Jiasen and Mitchell, Margaret and Batra, Dhruv and
        Zitnick, C. Lawrence and Parikh, Devi},
    booktitle={ICCV},
    year={2015}
}"""
INPUTS = """
Args:
    predictions: list of answers.
    references: for each the list of the annotators' answers.
    kinds: for each the name of its kind, if results by kind are wanted.
    leave_one_out: False compares with all annotators at once, as A-OKVQA does.
Returns:
    accuracy, and of each kind KIND_accuracy, 0 to 1.
"""


class VqaAccuracyModule(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        answer = datasets.Value("string")
        return evaluate.MetricInfo(
            description="How well answers agree with those of several annotators, by the VQA evaluation's definition.",
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": answer, "references": datasets.List(answer)}),
            reference_urls=["https://visualqa.org/evaluation.html"],
        )

    def _compute(
        self, predictions: list, references: list, kinds: list | None = None, leave_one_out: bool = True
    ) -> dict[str, float]:
        if kinds is not None:
            references = list(zip(kinds, references, strict=True))
        return VqaAccuracy(leave_one_out).compute(predictions=predictions, references=references)
