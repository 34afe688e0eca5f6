"""POPE and MME."""

import shutil

import pytest

from tests.benchmark_releases import COGNITION, PERCEPTION, write_mme, write_pope
from training.evaluation.benchmark.benchmark import Networks
from training.evaluation.benchmark.understanding import MME, POPE
from training.evaluation.benchmark.understanding.pope import yes_or_no
from training.evaluation.report import format_rows


def test_pope_gives_five_numbers_for_each_way_of_asking(tmp_path):
    examples = POPE.read(write_pope(tmp_path), "all")
    assert [example.key for example in examples[:5]] == ["random-1", "random-2", "random-3", "random-4", "popular-1"]
    random = ["Yes, there is.", "Yes", "No, there is no person.", "There is no car."]  # of yes, no, yes, no
    popular = ["Yes", "no", "yes", "no"]
    adversarial = ["yes"] * 4
    results = POPE.score(examples, random + popular + adversarial, Networks())
    expected = {
        "random": {"accuracy": 0.5, "precision": 0.5, "recall": 0.5, "f1": 0.5, "yes_ratio": 0.5},
        "popular": {"accuracy": 1, "precision": 1, "recall": 1, "f1": 1, "yes_ratio": 0.5},
        "adversarial": {"accuracy": 0.5, "precision": 0.5, "recall": 1, "f1": 2 / 3, "yes_ratio": 1},
    }
    for way, numbers in expected.items():
        assert {name: results[f"{way}_{name}"] for name in numbers} == pytest.approx(numbers)
    assert results["f1"] == pytest.approx((0.5 + 1 + 2 / 3) / 3)
    files = POPE.submission(examples, random + popular + adversarial)
    assert files["coco_pope_random_answers.json"].splitlines()[1] == (
        '{"question": "Is there a backpack in the image?", "answer": "Yes"}'
    )


def test_one_way_of_asking_pope(tmp_path):
    write_pope(tmp_path)
    (tmp_path / "coco_pope_random.json").unlink()
    examples = POPE.read(tmp_path, "popular")
    results = POPE.score(examples, ["yes"] * 4, Networks())
    assert results["accuracy"] == results["popular_accuracy"] == 0.5 and "random_accuracy" not in results
    with pytest.raises(ValueError, match="There is no coco_pope_random.json"):
        POPE.read(tmp_path, "all")
    (tmp_path / "coco_pope_random.json").write_text('{"question_id": 1, "image": "a.jpg", "text": "Is it?"\n')
    with pytest.raises(ValueError, match="coco_pope_random.json, line 1 is not valid JSON"):
        POPE.read(tmp_path, "random")
    (tmp_path / "coco_pope_random.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="coco_pope_random.json is not a text in UTF-8"):
        POPE.read(tmp_path, "random")


@pytest.mark.parametrize(
    "answer, taken",
    [
        ("yes", "yes"),
        ("No", "no"),
        ("There is not.", "no"),
        ("A dog is there. No cat is.", "yes"),  # only the first sentence counts
        ("Well, no, there is none", "no"),
        ("NO", "yes"),  # as the official script has it
        ("", "yes"),
    ],
)
def test_an_answer_is_taken_as_pope_takes_it(answer, taken):
    assert yes_or_no(answer) == taken


def test_mme_sums_the_scores_of_its_categories(tmp_path):
    examples = MME.read(write_mme(tmp_path), "test")
    assert [example.group for example in examples[::2]] == [*PERCEPTION, *COGNITION]
    assert examples[0].key == "existence/000000006040.jpg-1"
    answers = ["Yes, there is.", "No."] + ["yes"] * 26
    results = MME.score(examples, answers, Networks())
    assert results["existence_score"] == 200 and results["existence_accuracy_plus"] == 1
    assert results["count_score"] == 50 and results["count_accuracy"] == 0.5 and results["count_accuracy_plus"] == 0
    assert results["perception"] == 200 + 9 * 50 and results["cognition"] == 4 * 50
    files = MME.submission(examples, answers)
    assert files["existence.txt"].splitlines()[1] == (
        "000000006040.jpg\tIs there a donut in this image? Please answer yes or no.\tNo\tNo."
    )
    half = MME.score(examples[:3], answers[:3], Networks())
    assert half["num_examples"] == 2 and half["perception"] == 200
    assert half["num_unpaired"] == 1 and "num_unpaired" not in results
    assert "without the other of their picture, left out 1" in format_rows(MME.rows, half)


def test_mme_wants_all_of_its_folders(tmp_path):
    write_mme(tmp_path)
    folder = tmp_path / "MME_Benchmark_release_version"
    (folder / "scene" / "images" / "000000006040.jpg").unlink()
    with pytest.raises(ValueError, match="has no picture 000000006040"):
        MME.read(tmp_path, "test")
    (folder / "color" / "000000006040.txt").write_text("Is it red?\tYes\n")
    with pytest.raises(ValueError, match="000000006040.txt must hold two lines"):
        MME.read(tmp_path, "test")
    shutil.rmtree(folder / "scene")
    with pytest.raises(ValueError, match="lacks MME's folders scene"):
        MME.read(tmp_path, "test")
