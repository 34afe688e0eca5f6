import pytest

from training.data import concept_names
from training.data.emoji_scenes.language import NUMBERS, noun, plural
from training.evaluation.metrics import AnswerAccuracy, Mentions, ObjectF1, YesNo, normalize_answer


def test_normalized_answers_differ_in_words_only():
    assert normalize_answer("  Yes.\n") == normalize_answer("yes") == "yes"
    assert normalize_answer("A  plain, blue background!") == "a plain blue background"
    assert normalize_answer("...") == ""


def test_answer_accuracy_by_hand():
    result = AnswerAccuracy().compute(
        predictions=["Blue.", "red", "2", "2", "3"],
        references=[("colour", "blue"), ("colour", "blue"), ("count", "2"), ("count", "3"), ("count", "3")],
    )
    assert result == {
        "accuracy": 3 / 5,
        "majority": 4 / 5,
        "colour_accuracy": 1 / 2,
        "colour_majority": 1,
        "count_accuracy": 2 / 3,
        "count_majority": 2 / 3,
    }


def test_types_of_questions_come_by_name():
    """In whichever order they were asked, and in every process."""
    kinds = ["yes_no", "counting", None, "left_right", "colour", "size", "shape"]
    result = AnswerAccuracy().compute(predictions=["a"] * 7, references=[(kind, "a") for kind in kinds])
    assert list(result)[2::2] == [f"{kind}_accuracy" for kind in sorted(kinds, key=str) if kind is not None]


def test_answers_without_a_type():
    result = AnswerAccuracy().compute(predictions=["a", ""], references=[(None, "a"), (None, "b")])
    assert result == {"accuracy": 0.5, "majority": 0.5}


def test_yes_no_by_hand():
    result = YesNo().compute(
        predictions=["Yes.", "yes, there is", "No", "no", "maybe yes", ""],
        references=["yes", "no", "no", "yes", "yes", "no"],
    )
    # 1 true yes of 2 said and of 3 that are; right: the first and the third.
    assert result == pytest.approx(
        {"accuracy": 2 / 6, "precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5, "yes_ratio": 2 / 6}
    )


def test_yes_no_without_a_yes():
    result = YesNo().compute(predictions=["no", "no"], references=["no", "no"])
    assert result == {"accuracy": 1, "precision": 0, "recall": 0, "f1": 0, "yes_ratio": 0}
    with pytest.raises(ValueError, match="must be"):
        YesNo().add_batch(predictions=["yes"], references=["Yes"])


PHRASES = {
    "ball": "ball",
    "eight ball": "eight ball",
    "eight balls": "eight ball",
    "dog": "dog",
    "dogs": "dog",
    "fish": "fish",
}


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("Two dogs and a fish.", {"dog": 2, "fish": 1}),
        ("a dog, a fish and a dog", {"dog": 2, "fish": 1}),
        ("an eight ball", {"eight ball": 1}),
        ("eight eight balls", {"eight ball": 8}),
        ("a ball", {"ball": 1}),
        ("THREE\nDOGS", {"dog": 3}),
        ("no dogs", {}),
        ("a doghouse, a hotdog, starfish", {}),
        ("", {}),
    ],
)
def test_mentions(text, counts):
    assert Mentions(PHRASES, NUMBERS)(text) == counts


def test_every_noun_of_the_scenes_is_found_as_itself():
    names = concept_names("full")
    mentions = Mentions({phrase(name): name for name in names for phrase in (noun, plural)}, NUMBERS)
    for name in names:
        assert mentions(f"It shows one {noun(name)} here.") == {name: 1}
        assert mentions(f"It shows four {plural(name)}.") == {name: 4}


def test_mentions_of_nothing():
    with pytest.raises(ValueError, match="no phrase"):
        Mentions({}, NUMBERS)


def test_object_f1_by_hand():
    result = ObjectF1().compute(
        predictions=[["dog", "dog", "cat"], {"bus": 1}], references=[["dog", "cat", "pear"], ["bus"]]
    )
    # named 4, there 4, right 3: one dog, the cat, the bus
    assert result == {"precision": 3 / 4, "recall": 3 / 4, "f1": 3 / 4, "exact": 1 / 2}


def test_object_f1_of_silence():
    assert ObjectF1().compute(predictions=[[]], references=[["dog"]]) == {
        "precision": 0,
        "recall": 0,
        "f1": 0,
        "exact": 0,
    }
