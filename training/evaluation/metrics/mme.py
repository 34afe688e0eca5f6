"""The scores of MME."""

from collections import defaultdict
from collections.abc import Sequence

from training.evaluation.metrics.base import Metric

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


class MmeScores(Metric):
    """Yes or no, two questions a picture, in fourteen categories (Fu et al. 2023, arXiv 2306.13394).

    Of each category that has examples: "<category>_accuracy" over its questions, 0 to 1; "<category>_accuracy_plus",
    the part of its pictures with both questions right; and "<category>_score", 100 times the sum of both, 0 to 200.
    "perception" is the sum of the scores of ten categories, at most 2,000, and "cognition" that of the other four, at
    most 800; a sum whose categories are not all there is of those that are, and absent if there are none.

    Predictions: answers, of which the first four letters count, as in the official calculation: it is "yes" where they
    hold yes, else "no" where they hold no, else wrong. References: (category, picture, "yes" or "no"), where the
    picture is a name that its two questions have in common.
    """

    def _score_batch(
        self, predictions: Sequence[str], references: Sequence[tuple[str, str, str]]
    ) -> list[tuple[str, str, bool]]:
        scores = []
        for prediction, (category, picture, truth) in zip(predictions, references, strict=True):
            if category not in (*PERCEPTION, *COGNITION) or truth not in ("yes", "no"):
                raise ValueError(
                    f"Needed: one of MME's categories {(*PERCEPTION, *COGNITION)}, and yes or no as the true answer; "
                    f"got {category!r} and {truth!r}."
                )
            scores.append((category, picture, _yes_or_no(prediction) == truth))
        return scores

    def _reduce(self, scores: list[tuple[str, str, bool]]) -> dict[str, float]:
        of_picture = defaultdict(lambda: defaultdict(list))
        for category, picture, right in scores:
            of_picture[category][picture].append(right)
        results = {}
        for category in sorted(of_picture, key=(*PERCEPTION, *COGNITION).index):
            pictures = of_picture[category]
            for picture, both in pictures.items():
                if len(both) != 2:
                    raise ValueError(
                        f"Each picture of MME has two questions, {picture!r} of {category} came with {len(both)}. Give "
                        "both of each picture."
                    )
            accuracy = sum(map(sum, pictures.values())) / (2 * len(pictures))
            accuracy_plus = sum(map(all, pictures.values())) / len(pictures)
            results[f"{category}_accuracy"] = accuracy
            results[f"{category}_accuracy_plus"] = accuracy_plus
            results[f"{category}_score"] = 100 * (accuracy + accuracy_plus)
        for name, categories in (("perception", PERCEPTION), ("cognition", COGNITION)):
            if there := [category for category in categories if category in of_picture]:
                results[name] = sum(results[f"{category}_score"] for category in there)
        return results


def _yes_or_no(answer: str) -> str | None:
    start = answer.strip().lower()[:4]
    return next((word for word in ("yes", "no") if word in start), None)
