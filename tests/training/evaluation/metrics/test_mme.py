import pytest

from training.evaluation.metrics import MmeScores


def test_scores_by_hand():
    result = MmeScores().compute(
        predictions=["Yes", "no.", "yes", "Yes, there is", "no", "yes", "I think so", "No"],
        references=[
            ("existence", "1.jpg", "yes"),
            ("existence", "1.jpg", "no"),
            ("existence", "2.jpg", "yes"),
            ("existence", "2.jpg", "no"),
            ("color", "1.jpg", "no"),
            ("color", "1.jpg", "yes"),
            ("code_reasoning", "7.png", "yes"),
            ("code_reasoning", "7.png", "no"),
        ],
    )
    assert result == {
        "existence_accuracy": 3 / 4,
        "existence_accuracy_plus": 1 / 2,
        "existence_score": 125,
        "color_accuracy": 1,
        "color_accuracy_plus": 1,
        "color_score": 200,
        "code_reasoning_accuracy": 1 / 2,
        "code_reasoning_accuracy_plus": 0,
        "code_reasoning_score": 50,
        "perception": 325,
        "cognition": 50,
    }


def test_the_most_that_can_be_had():
    categories = ["existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork"]
    categories += ["OCR", "commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"]
    references = [(category, "1.jpg", answer) for category in categories for answer in ("yes", "no")]
    result = MmeScores().compute(predictions=["yes", "no"] * 14, references=references)
    assert (result["perception"], result["cognition"]) == (2000, 800)


@pytest.mark.parametrize(
    ("answer", "said"),
    [("YES", "yes"), (" no way", "no"), ("not sure", "no"), ("the answer is yes", None), ("eyes", "yes"), ("", None)],
)
def test_the_first_four_letters_count(answer, said):
    for truth, other in (("yes", "no"), ("no", "yes")):
        references = [("count", "1.jpg", truth), ("count", "1.jpg", other)]
        accuracy = MmeScores().compute(predictions=[answer, other], references=references)["count_accuracy"]
        assert accuracy == (1 if said == truth else 1 / 2)


def test_no_sum_of_nothing():
    references = [("OCR", "1.jpg", "yes"), ("OCR", "1.jpg", "no")]
    assert "cognition" not in MmeScores().compute(predictions=["yes", "yes"], references=references)


def test_refuses_half_a_picture_and_unknown_names():
    with pytest.raises(ValueError, match="'2.jpg' of count came with 1"):
        MmeScores().compute(predictions=["yes"], references=[("count", "2.jpg", "yes")])
    for category, truth in (("counting", "yes"), ("count", "Yes")):
        with pytest.raises(ValueError, match="Needed"):
            MmeScores().add_batch(predictions=["yes"], references=[(category, "1.jpg", truth)])
