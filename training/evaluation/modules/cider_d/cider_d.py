"""CIDEr-D, BLEU and ROUGE-L of captions, for `evaluate.load`."""

import datasets
import evaluate

from training.evaluation.metrics import CaptionScores  # From: -e "FOLDER_OF_SETOK[eval]"

CITATION = """@inproceedings{vedantam2015cider,
    title={{CIDEr}: Consensus-based Image Description Evaluation},
    author={Vedantam, Ramakrishna and Zitnick, C. Lawrence and Parikh, Devi},
    booktitle={CVPR},
    year={2015}
}"""
INPUTS = """
Args:
    predictions: list of captions, one a picture.
    references: for each the list of the picture's true captions.
Returns:
    cider_d, 0 to 10, and bleu_1, bleu_2, bleu_3, bleu_4 and rouge_l, 0 to 1.
"""


class CiderDModule(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        caption = datasets.Value("string")
        return evaluate.MetricInfo(
            description="CIDEr-D, BLEU and ROUGE-L by pycocoevalcap, on words made without Java.",
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": caption, "references": datasets.List(caption)}),
            codebase_urls=["https://github.com/salaniz/pycocoevalcap"],
            reference_urls=["https://arxiv.org/abs/1411.5726"],
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        return CaptionScores().compute(predictions=predictions, references=references)
