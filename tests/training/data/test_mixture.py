"""Shares are exact, windows are even, and every part is walked through in order."""

import pickle

import datasets
import pytest
from torch.utils.data import DataLoader

from training.data import EmojiScenes, mix


def rows_of(name: str, count: int) -> list[dict]:
    return [{"part": name, "row": i} for i in range(count)]


PARTS = {"a": rows_of("a", 40), "b": datasets.Dataset.from_list(rows_of("b", 1000)), "c": rows_of("c", 3)}
WEIGHTS = {"b": 5, "a": 3, "c": 2.0}  # in another order than the parts


def test_shares_are_exact():
    names = [row["part"] for row in mix(PARTS, WEIGHTS, 1000)]
    assert {name: names.count(name) for name in PARTS} == {"a": 300, "b": 500, "c": 200}


@pytest.mark.parametrize("num_rows", [1, 7, 99, 1001])
def test_shares_are_within_a_row_for_any_length(num_rows):
    mixture = mix(PARTS, WEIGHTS, num_rows)
    names = [row["part"] for row in mixture]
    assert len(mixture) == len(names) == num_rows
    for name, weight in WEIGHTS.items():
        assert abs(names.count(name) - num_rows * weight / 10) <= 1


def test_every_window_has_the_shares():
    names = [row["part"] for row in mix(PARTS, WEIGHTS, 1000, seed=3)]
    for start in range(0, 900, 7):
        window = names[start : start + 100]
        assert all(abs(window.count(name) - 10 * weight) <= 5 for name, weight in WEIGHTS.items())


def test_no_part_falls_on_every_second_row():
    names = [row["part"] for row in mix({"a": PARTS["a"], "b": PARTS["b"]}, {"a": 1, "b": 1}, 1000)]
    assert 150 < names[::2].count("a") < 350


def test_parts_are_read_in_order_and_again():
    mixture = mix(PARTS, WEIGHTS, 1000)
    for name, part in PARTS.items():
        rows = [row["row"] for row in mixture if row["part"] == name]
        assert rows == [i % len(part) for i in range(len(rows))]


def test_the_seed_decides_the_order():
    first, same, other = (list(mix(PARTS, WEIGHTS, 50, seed)) for seed in (1, 1, 2))
    assert first == same != other


def test_weight_zero_leaves_a_part_out():
    mixture = mix({**PARTS, "empty": []}, {**WEIGHTS, "b": 0, "empty": 0}, 50)
    assert {row["part"] for row in mixture} == {"a", "c"}


def test_scenes_in_a_loader_and_pickled():
    parts = {task: EmojiScenes("train", 4, tasks=(task,)) for task in ("caption", "text_only")}
    mixture = mix(parts, {"caption": 1, "text_only": 3}, 8)
    assert list(pickle.loads(pickle.dumps(mixture))) == list(mixture)
    loader = DataLoader(mixture, batch_size=4, shuffle=True, collate_fn=lambda rows: [row["task"] for row in rows])
    assert sorted(sum(loader, [])) == ["caption"] * 2 + ["text_only"] * 6
    with pytest.raises(IndexError):
        mixture[8]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"weights": {"a": 1, "b": 1}}, "same names"),
        ({"parts": {}, "weights": {}}, "same names"),
        ({"weights": {"a": -1, "b": 1, "c": 1}}, "at least 0"),
        ({"weights": {"a": 0, "b": 0, "c": 0}}, "one above 0"),
        ({"weights": {"a": float("nan"), "b": 1, "c": 1}}, "numbers"),
        ({"num_rows": 0}, "num_rows >= 1"),
        ({"seed": -1}, "seed >= 0"),
        ({"parts": {**PARTS, "c": []}}, "c: a part without rows"),
        ({"parts": {**PARTS, "c": PARTS["b"].to_iterable_dataset()}}, "interleave_datasets"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        mix(**{"parts": PARTS, "weights": WEIGHTS, "num_rows": 10, **change})
