"""cIoU, gIoU and precision of referring segmentation, for `evaluate.load`."""

import datasets
import evaluate

from training.evaluation.metrics import ReferringIoU  # From: -e "FOLDER_OF_SETOK[eval]"

CITATION = """@inproceedings{lai2024lisa,
    title={{LISA}: Reasoning Segmentation via Large Language Model},
    author={Lai, Xin and Tian, Zhuotao and Chen, Yukang and Li, Yanwei and Yuan, Yuhui and Liu, Shu and Jia, Jiaya},
    booktitle={CVPR},
    year={2024}
}"""
INPUTS = """
Args:
    predictions: list of masks (H, W) of bool, of any size.
    references: for each the true mask, of the same size.
Returns:
    ciou, giou, and precision_50, precision_60, precision_70, precision_80 and precision_90, 0 to 1.
"""


class ReferringIoUModule(evaluate.Metric):
    def _info(self) -> evaluate.MetricInfo:
        mask = datasets.List(datasets.List(datasets.Value("bool")))
        return evaluate.MetricInfo(
            description="Cumulative IoU, mean IoU, and the part of the masks above an IoU.",
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": mask, "references": mask}),
            reference_urls=["https://arxiv.org/abs/2308.00692"],
        )

    def _compute(self, predictions: list, references: list) -> dict[str, float]:
        return ReferringIoU().compute(predictions=predictions, references=references)
