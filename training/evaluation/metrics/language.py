"""How right the words of a model are: short answers, yes or no, and the objects that a text mentions."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from training.evaluation.metrics.base import Metric


def normalize_answer(text: str) -> str:
    """The text in lower case without punctuation and surplus white space: " Yes.\\n" is "yes"."""
    return " ".join(re.sub(r"[^\w\s]", "", text.lower()).split())


class AnswerAccuracy(Metric):
    """{"accuracy": 0 to 1, "majority": …} over all questions, and with the prefix "<type>_" over those of each type:
    the part of the answers that are the true one after `normalize_answer`. "majority" is what one gets by giving to
    every question the most frequent true answer of its type.

    Predictions: answers. References: (question type or None, true answer).
    """

    def _score_batch(self, predictions: Sequence[str], references: Sequence[tuple[str | None, str]]) -> list[tuple]:
        return [
            (kind, truth := normalize_answer(reference), normalize_answer(prediction) == truth)
            for prediction, (kind, reference) in zip(predictions, references, strict=True)
        ]

    def _reduce(self, scores: list[tuple[str | None, str, bool]]) -> dict[str, float]:
        asked = Counter(kind for kind, _, _ in scores)
        right = Counter(kind for kind, _, correct in scores if correct)
        answers = Counter((kind, truth) for kind, truth, _ in scores)
        majority = {kind: max(n for (other, _), n in answers.items() if other == kind) for kind in asked}
        results = {"accuracy": right.total() / len(scores), "majority": sum(majority.values()) / len(scores)}
        for kind in sorted(asked.keys() - {None}):
            results[f"{kind}_accuracy"] = right[kind] / asked[kind]
            results[f"{kind}_majority"] = majority[kind] / asked[kind]
        return results


class YesNo(Metric):
    """Accuracy, precision, recall and F1 with "yes" as positive, and the part answered with yes, as of POPE (Li et al.
    2023): {"accuracy", "precision", "recall", "f1", "yes_ratio"}, each 0 to 1; precision, recall and F1 are 0 where
    there is nothing to divide by.

    Predictions: answers, which count by their first word, so that "Yes, there is." is a yes; one that begins with
    neither yes nor no is wrong. References: "yes" or "no".
    """

    def _score_batch(self, predictions: Sequence[str], references: Sequence[str]) -> list[tuple[str, str]]:
        if unknown := set(references) - {"yes", "no"}:
            raise ValueError(f'The true answers must be "yes" or "no", got {sorted(unknown)}.')
        first_words = [(normalize_answer(prediction).split() or [""])[0] for prediction in predictions]
        return list(zip(first_words, references, strict=True))

    def _reduce(self, scores: list[tuple[str, str]]) -> dict[str, float]:
        true_yes = scores.count(("yes", "yes"))
        said_yes = sum(said == "yes" for said, _ in scores)
        is_yes = sum(truth == "yes" for _, truth in scores)
        return {
            "accuracy": sum(said == truth for said, truth in scores) / len(scores),
            **_precision_recall_f1(true_yes, said_yes, is_yes),
            "yes_ratio": said_yes / len(scores),
        }


class Mentions:
    """Counts what a text mentions: "two dogs and a cat" -> {"dog": 2, "cat": 1}.

    Args:
        phrases: phrase -> name, with singular and plural as two phrases of one name. Where several phrases fit, the
            longest counts.
        numbers: the words for 0, 1, 2, … that may stand before a phrase; without one it counts 1.
    """

    def __init__(self, phrases: Mapping[str, str], numbers: Sequence[str]):
        if not phrases:
            raise ValueError("There is no phrase to look for.")
        self._names = {phrase.lower(): name for phrase, name in phrases.items()}
        self._numbers = {word.lower(): number for number, word in enumerate(numbers)}
        longest_first = (
            "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
            for words in (self._numbers, self._names)
        )
        self._pattern = re.compile(r"\b(?:({}) )??({})\b".format(*longest_first))

    def __call__(self, text: str) -> Counter[str]:
        counts = Counter()
        for number, phrase in self._pattern.findall(" ".join(text.lower().split())):
            counts[self._names[phrase]] += self._numbers.get(number, 1)
        return +counts


class ObjectF1(Metric):
    """{"precision", "recall", "f1", "exact": 0 to 1}: of all objects named how many are there, of all that are there
    how many are named, both over all images together; "exact" is the part of the images with all and only their
    objects. Predictions and references: per image the objects, a name as often as it is there.
    """

    def _score_batch(self, predictions: Sequence, references: Sequence) -> list[tuple[int, int, int]]:
        pairs = (
            (Counter(prediction), Counter(reference))
            for prediction, reference in zip(predictions, references, strict=True)
        )
        return [((named & there).total(), named.total(), there.total()) for named, there in pairs]

    def _reduce(self, scores: list[tuple[int, int, int]]) -> dict[str, float]:
        exact = sum(right == named == there for right, named, there in scores)
        totals = (sum(column) for column in zip(*scores, strict=True))
        return {**_precision_recall_f1(*totals), "exact": exact / len(scores)}


def _precision_recall_f1(right: int, said: int, true: int) -> dict[str, float]:
    return {
        "precision": right / said if said else 0.0,
        "recall": right / true if true else 0.0,
        "f1": 2 * right / (said + true) if said + true else 0.0,
    }
