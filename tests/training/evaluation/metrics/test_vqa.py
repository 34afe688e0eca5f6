import random

import pytest

from training.evaluation.metrics import GqaAccuracy, VqaAccuracy, normalize_vqa_answer


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Two of the dogs.", "2 of dogs"),
        ("A  cat\nand\tAN owl", "cat and owl"),
        ("None", "0"),
        ("eleven", "eleven"),
        ("dont", "don't"),
        ("couldnt've, couldn'tve", "couldn't've couldn't've"),
        ("'ows'at", "'ow's'at"),
        ("well be ill, its hell", "well be ill its hell"),  # words without their apostrophes, too
        ("the girl's bike", "girl's bike"),
        ("10:30", "10:30"),
        ("3.5.", "3.5"),
        ("U.S.A.", "usa"),
        ("1,000", "1000"),
        ("1,000-foot", "1000foot"),  # with such a comma no sign leaves a space
        ("t-shirt", "t shirt"),
        ("red-blue - green", "redblue green"),  # nor one that stands beside a space elsewhere
        ("yes!", "yes"),
        ("and/or", "and or"),
        ("?", ""),
    ],
)
def test_normalized_answers(text, normal):
    assert normalize_vqa_answer(text) == normal


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        # 1. newlines and tabs become spaces, and those around the answer go: no sign stands beside one any more
        ("\tred-blue\n", "red blue"),
        ("red-blue\n-", "redblue"),
        # 2. signs become spaces, or nothing, before words are looked at
        ("two/three,the dog", "2 3 dog"),
        # 3. then full stops go, but before a digit
        ("a.m.", "am"),  # no article yet
        ("one.two", "onetwo"),  # no numbers any more
        ("dont.", "don't"),
        (".50", ".50"),
        # 4. lower case, and words
        ("  The   THREE ", "3"),
        # 5. number words and articles, each word by itself
        ("ten,000", "10 000"),
        ("a hundred and one", "hundred and 1"),
        # 6. apostrophes of what is left
        ("the cant", "can't"),
        # all of them
        ("\tThe  Two-year-old DIDNT pay 1.50!\n", "2 year old didn't pay 1.50"),
    ],
)
def test_the_steps_of_normalization_by_hand(text, normal):
    """In the order of vqaEval.py: processPunctuation, then processDigitArticle."""
    assert normalize_vqa_answer(text) == normal
    assert normalize_vqa_answer(normal) == normal


@pytest.mark.parametrize(("given", "all_wrote"), [("T-shirt", "t-shirt"), ("2", "two"), ("dog", "a dog")])
def test_annotators_who_all_agree_are_normalized_too(given, all_wrote):
    """Where vqaEval.py compares the texts as they are, and counts 0; with another answer among the ten it counts 1."""
    assert VqaAccuracy().compute(predictions=[given], references=[[all_wrote] * 10]) == {"accuracy": 1}
    assert VqaAccuracy().compute(predictions=[given], references=[[all_wrote] * 9 + ["owl"]]) == {"accuracy": 1}


def test_the_published_formula():
    """min(n / 3, 1) of each set of nine of ten annotators, meaned."""
    draw = random.Random(0)
    for _ in range(50):
        answers = [draw.choice("abc") for _ in range(10)]
        others = [answers[:left_out] + answers[left_out + 1 :] for left_out in range(10)]
        expected = sum(min(nine.count("a") / 3, 1) for nine in others) / 10
        assert VqaAccuracy().compute(predictions=["a"], references=[answers])["accuracy"] == pytest.approx(expected)


@pytest.mark.parametrize(("same", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_ten_annotators_by_hand(same, score):
    answers = ["two dogs"] * same + [f"word {i}" for i in range(10 - same)]
    assert VqaAccuracy().compute(predictions=["2 dogs."], references=[answers])["accuracy"] == pytest.approx(score)


def test_all_annotators_at_once():
    """As A-OKVQA: three of ten are enough."""
    answers = ["owl", "owl", "The owl", *"abcdefg"]
    assert VqaAccuracy(leave_one_out=False).compute(predictions=["an owl"], references=[answers]) == {"accuracy": 1}
    assert VqaAccuracy(leave_one_out=False).compute(predictions=["c d"], references=[answers]) == {"accuracy": 0}
    assert VqaAccuracy(leave_one_out=False).compute(predictions=["b"], references=[answers]) == {"accuracy": 1 / 3}


def test_fewer_than_four_annotators():
    """All who are asked agree: right."""
    for answers in (["red"], ["red", "red"], ["red", "red", "red"]):
        assert VqaAccuracy().compute(predictions=["red"], references=[answers]) == {"accuracy": 1}
        assert VqaAccuracy().compute(predictions=["blue"], references=[answers]) == {"accuracy": 0}
    assert VqaAccuracy().compute(predictions=["red"], references=[["red", "blue"]]) == {"accuracy": 1 / 2}
    # without a red one 1 of 2, without the blue one 2 of 2
    result = VqaAccuracy().compute(predictions=["red"], references=[["red", "red", "blue"]])
    assert result["accuracy"] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)


def test_accuracy_by_kind():
    result = VqaAccuracy().compute(
        predictions=["yes", "no", "2", "tree"],
        references=[("yes/no", ["yes"] * 10), ("yes/no", ["yes"] * 10), ("number", ["two"] * 10), (None, ["owl"] * 10)],
    )
    assert result == {"accuracy": 1 / 2, "number_accuracy": 1, "yes/no_accuracy": 1 / 2}
    assert list(result) == sorted(result)


@pytest.mark.parametrize("reference", ["yes", [], ("number", []), [2]])
def test_refuses_what_are_no_answers(reference):
    with pytest.raises(ValueError, match="annotators' answers"):
        VqaAccuracy().add_batch(predictions=["2"], references=[reference])


def test_gqa_by_hand():
    result = GqaAccuracy().compute(
        predictions=["Yes.", "no", "a dog", "left"],
        references=[(("binary", "verify"), "yes"), (("binary", "verify"), "yes"), (("open", "query"), "dog"), "left"],
    )
    assert result == {
        "accuracy": 1 / 2,
        "binary_accuracy": 1 / 2,
        "open_accuracy": 0,
        "query_accuracy": 0,
        "verify_accuracy": 1 / 2,
    }
    with pytest.raises(ValueError, match="tuple of names"):
        GqaAccuracy().add_batch(predictions=["yes"], references=[("binary", "yes")])
