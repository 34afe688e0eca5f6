"""The small models that easy-VQA is measured against."""

import json

import pytest
import torch

from tests.training.data.readers.test_easy_vqa import write_easy_vqa
from training.data import load_easy_vqa
from training.evaluation.benchmark.easy_vqa_baseline import (
    BagOfWordsCnn,
    Questions,
    answers_of,
    main,
    measure,
    most_frequent_answers,
    train_cnn,
    words_of,
)


def colours(count: int) -> Questions:
    """Pictures of one colour, red or blue in turns, two questions about each; the questions about a picture do not
    follow one another."""
    pixels = torch.zeros(count, 3, 16, 16, dtype=torch.uint8)
    pixels[::2, 0], pixels[1::2, 2] = 250, 250
    is_red = [number % 2 == 0 for number in range(count)]
    return Questions(
        pixels=pixels,
        picture=torch.arange(count).repeat(2),
        texts=["what color is it?"] * count + ["is it red?" if i % 4 < 2 else "is it not red?" for i in range(count)],
        kinds=["colour"] * count + ["yes_no"] * count,
        answers=["red" if red else "blue" for red in is_red]
        + ["yes" if red == (i % 4 < 2) else "no" for i, red in enumerate(is_red)],
    )


def test_words_are_counted_without_regard_to_case_and_marks():
    assert words_of("Is it not a RED shape?") == ["is", "it", "not", "a", "red", "shape"]
    model = BagOfWordsCnn(["red", "is", "green"], ["yes", "no"])
    assert model.bag(["Is red red?", "what?"]).tolist() == [[2, 1, 0], [0, 0, 0]]


def test_most_frequent_answers_are_those_of_training():
    train = Questions(
        torch.zeros(1, 3, 8, 8), torch.zeros(5), ["a?", "a?", "a?", "b?", "b?"], [], ["no", "yes", "no", "red", "red"]
    )
    train.answers.append("no")
    train.texts.append("c?")
    assert most_frequent_answers(train, ["b?", "a?", "new?"]) == (["no"] * 3, ["red", "no", "no"])


def test_answers_need_both_the_picture_and_the_words():
    model = train_cnn(colours(32), epochs=30, batch_size=8)
    asked = colours(12)
    assert answers_of(model, asked) == asked.answers
    swapped = Questions(asked.pixels.flip(1), asked.picture, asked.texts, asked.kinds, asked.answers)
    assert not any(said == true for said, true in zip(answers_of(model, swapped), asked.answers, strict=True))


def test_training_gives_the_same_weights_again_and_batches_change_no_answer():
    first, second = (train_cnn(colours(8), epochs=2, batch_size=3, seed=1).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    model = train_cnn(colours(8), epochs=2, batch_size=3, seed=1)
    assert answers_of(model, colours(8), batch_size=1) == answers_of(model, colours(8))


def test_results_are_by_kind():
    asked = colours(4)
    results = measure({"cnn": asked.answers, "most_frequent": ["red"] * 8}, asked)
    assert results == {
        "num_examples": 8, "cnn_accuracy": 1, "cnn_colour_accuracy": 1, "cnn_yes_no_accuracy": 1,
        "most_frequent_accuracy": 2 / 8, "most_frequent_colour_accuracy": 2 / 4, "most_frequent_yes_no_accuracy": 0,
    }  # fmt: skip


def test_rows_become_pictures_each_once(tmp_path):
    questions = Questions.from_rows(load_easy_vqa("train", write_easy_vqa(tmp_path)))
    assert questions.pixels.shape == (2, 3, 64, 64) and questions.picture.tolist() == [0, 0, 1]
    assert questions.pixels[1, :, 0, 0].tolist() == [10, 0, 200]
    assert questions.texts[1] == "what color is the shape?" and questions.answers == ["rectangle", "blue", "yes"]
    assert questions.kinds == ["shape", "colour", "yes_no"]


def test_command_measures_all_baselines(tmp_path, capsys):
    folder = write_easy_vqa(tmp_path / "data")
    main(["--data", str(folder), "--epochs", "1", "--device", "cpu", "--output", str(tmp_path / "results.json")])
    assert "CNN and bag of words" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert results["num_examples"] == 1
    assert results["most_frequent_accuracy"] == pytest.approx(0)
