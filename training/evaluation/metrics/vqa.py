"""How right short answers are that several people gave first (VQAv2, OK-VQA, A-OKVQA, VizWiz), or that graphs of scenes
gave (GQA)."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean

from training.evaluation.metrics.base import Metric
from training.evaluation.metrics.language import normalize_answer

_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}  # fmt: skip
# The forms whose apostrophe is put back where it is missing. Not among them is what is a word without it ("we'll").
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
# Each lacks one of its apostrophes.
_WITH_APOSTROPHE = {
    form[:at] + form[at + 1 :]: form for form in _CONTRACTIONS for at, letter in enumerate(form) if letter == "'"
} | {"somebody'd": "somebodyd"}  # the other way round, as the official table has it
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def normalize_vqa_answer(text: str) -> str:
    """The answer as the VQA evaluation compares it (https://visualqa.org/evaluation.html): "Two of the dogs." is
    "2 of dogs".

    In lower case; without articles; number words up to ten as digits; missing apostrophes of contractions put back;
    without full stops, but for those before a digit. Of other punctuation the apostrophe and the colon stay. Any other
    sign becomes a space; it goes without one where it stands beside a space anywhere in the answer, or where a comma
    stands between two digits: "1,000" is "1000".
    """
    text = re.sub(r"[\n\t]", " ", text).strip()
    has_thousands = re.search(r"\d,\d", text) is not None
    bare = text
    for sign in _PUNCTUATION:
        beside_space = f"{sign} " in text or f" {sign}" in text
        bare = bare.replace(sign, "" if beside_space or has_thousands else " ")
    bare = re.sub(r"\.(?!\d)", "", bare)
    words = (_NUMBERS.get(word, word) for word in bare.lower().split())
    return " ".join(_WITH_APOSTROPHE.get(word, word) for word in words if word not in _ARTICLES)


class VqaAccuracy(Metric):
    """{"accuracy": 0 to 1} over all questions, and "<kind>_accuracy" over those of each kind: how well an answer agrees
    with those of the annotators (Antol et al. 2015; https://visualqa.org/evaluation.html).

    An answer that n of a set of annotators gave counts min(n / 3, 1); the score is the mean of this over the sets of
    all annotators but one. Both sides are compared after `normalize_vqa_answer`. (The official script does the same,
    vqaEval.py of https://github.com/GT-Vision-Lab/VQA since 2021, but where all annotators wrote the same it compares
    the texts as they are: a single annotator's "A dog." then asks for the article and the full stop. So the score here
    is the same or higher.)

    Where a set has one or two annotators only, all of them must agree for 1; a single annotator is the set.

    Predictions: answers. References: the annotators' answers, one or more; or (kind, answers), where the kind is a
    name such as VQA's answer type, or None. OK-VQA releases the answers of five annotators, each twice: give the ten.

    Args:
        leave_one_out: False takes the set of all annotators only, as A-OKVQA's official evaluation does.
    """

    def __init__(self, leave_one_out: bool = True):
        super().__init__()
        self._leave_one_out = leave_one_out

    def _score_batch(self, predictions: Sequence[str], references: Sequence) -> list[tuple[tuple[str, ...], float]]:
        scores = []
        for prediction, reference in zip(predictions, references, strict=True):
            kind, answers = reference if _has_kind(reference) else (None, reference)
            if isinstance(answers, str) or not answers or not all(isinstance(answer, str) for answer in answers):
                raise ValueError(
                    f"A reference must be the list of the annotators' answers, one or more, or (kind, answers), got "
                    f"{reference!r}."
                )
            scores.append(((kind,) if kind is not None else (), self._agreement(prediction, answers)))
        return scores

    def _agreement(self, prediction: str, answers: Sequence[str]) -> float:
        given = normalize_vqa_answer(prediction)
        same = [normalize_vqa_answer(answer) == given for answer in answers]
        if not self._leave_one_out or len(same) == 1:
            return min(sum(same) / min(3, len(same)), 1.0)
        enough = min(3, len(same) - 1)
        return sum(min((sum(same) - left_out) / enough, 1.0) for left_out in same) / len(same)

    def _reduce(self, scores: list[tuple[tuple[str, ...], float]]) -> dict[str, float]:
        return _mean_by_kind(scores)


class GqaAccuracy(Metric):
    """{"accuracy": 0 to 1} over all questions, and "<kind>_accuracy" over those of each kind: the part of the answers
    that are the true one (Hudson and Manning 2019), after `normalize_answer`; the true ones are in that form already.

    Predictions: answers. References: the true answer, or (kinds, answer), where the kinds of a question are names, any
    number of them, such as ("binary", "verify", "attr").
    """

    def _score_batch(self, predictions: Sequence[str], references: Sequence) -> list[tuple[tuple[str, ...], float]]:
        scores = []
        for prediction, reference in zip(predictions, references, strict=True):
            kinds, answer = ((), reference) if isinstance(reference, str) else reference
            if isinstance(kinds, str):
                raise ValueError(f"The kinds of a question must be a tuple of names, got {kinds!r}.")
            scores.append((tuple(kinds), float(normalize_answer(prediction) == normalize_answer(answer))))
        return scores

    def _reduce(self, scores: list[tuple[tuple[str, ...], float]]) -> dict[str, float]:
        return _mean_by_kind(scores)


def _has_kind(reference: Sequence) -> bool:
    return len(reference) == 2 and not isinstance(reference[1], str)


def _mean_by_kind(scores: Iterable[tuple[tuple[str, ...], float]]) -> dict[str, float]:
    of_kind = defaultdict(list)
    for kinds, score in scores:
        for kind in {None, *kinds}:
            of_kind[kind].append(score)
    everything = of_kind.pop(None)
    return {
        "accuracy": fmean(everything),
        **{f"{kind}_accuracy": fmean(of_kind[kind]) for kind in sorted(of_kind)},
    }
