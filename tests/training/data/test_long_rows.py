"""Rows that are too long are found before a run: refused by name, or left out or cut, and counted."""

import json
import logging

import pytest
from PIL import Image

from processing import SetokimProcessor
from tests.setokim_testing import tiny_processor
from training.data.long_rows import without_long_rows
from training.data.row_lengths import RowLengths
from training.data.setokim_collator import SetokimCollator
from training.data.sources import load_mixture

LIMIT = 60
SHORT, LONG = ("One.", "Two.", "Three."), "word " * 400


@pytest.fixture(scope="module")
def processor() -> SetokimProcessor:
    return tiny_processor()


@pytest.fixture
def parts(tmp_path) -> list[dict]:
    """A folder of five conversations: the second has a long answer, the fourth a long question; and scenes."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    turns = [("Hi", SHORT[0]), ("Hi", LONG), ("Hi", SHORT[1]), (LONG, "Lost"), ("<image>", SHORT[2])]
    rows = [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in turns]
    rows[4]["image"] = "a.png"
    (tmp_path / "data.json").write_text(json.dumps(rows))
    scenes = {"dataset": "emoji_scenes", "task": "text_only", "image_size": 24, "weight": 0.5}
    return [{"dataset": str(tmp_path), "name": "talk"}, scenes]


def answers(mixture) -> list[str]:
    return [row["messages"][-1]["content"][0]["text"] for row in mixture if row["task"] == "conversation"]


def test_long_rows_are_refused_with_part_and_row(parts, processor):
    with pytest.raises(ValueError, match=r"talk: 2 of 5 rows have more than max_length = 60 .* is row 1 .*'Hi word"):
        without_long_rows(load_mixture(parts, 30), RowLengths(processor, LIMIT))


def test_long_rows_are_left_out_and_counted(parts, processor, caplog):
    caplog.set_level(logging.INFO)
    mixture = load_mixture(parts, 30, seed=3)
    kept = without_long_rows(mixture, RowLengths(processor, LIMIT, long_rows="skip"))
    assert answers(kept) == [SHORT[i % 3] for i in range(20)]
    assert "talk: 2 of 5 rows have more than max_length = 60 tokens: 0 are cut, 2 left out" in caplog.text
    assert (kept.part_of == mixture.part_of).all() and len(kept) == 30  # nothing else moves
    assert [row["messages"] for row in kept if row["task"] == "text_only"] == [
        row["messages"] for row in mixture if row["task"] == "text_only"
    ]
    again = without_long_rows(load_mixture(parts, 30, seed=3), RowLengths(processor, LIMIT, long_rows="skip"))
    assert (again.row_of == kept.row_of).all()  # so that a run that goes on meets the same rows


def test_long_rows_are_cut_at_turns_or_left_out(tmp_path, processor, caplog):
    """Of three conversations and a text: the second loses its last turns, the third has none that fits."""
    caplog.set_level(logging.INFO)
    turns = [[("Hi", "One.")], [("Hi", "Two."), ("Why?", LONG)], [("Hi", LONG)]]
    rows = [
        {
            "conversations": [
                part for q, a in row for part in ({"from": "human", "value": q}, {"from": "gpt", "value": a})
            ]
        }
        for row in turns
    ]
    (tmp_path / "data.json").write_text(json.dumps([*rows, {"text": LONG}]))
    lengths = RowLengths(processor, LIMIT, long_rows="cut")
    kept = without_long_rows(load_mixture([{"dataset": str(tmp_path), "name": "talk"}], 30), lengths)
    assert "3 of 4 rows have more than max_length = 60 tokens: 1 are cut, 2 left out" in caplog.text
    assert "1 of those left out are texts, which streaming: true would cut to pieces" in caplog.text
    assert [len(row["messages"]) for row in kept] == [2, 4] * 15
    batch = SetokimCollator(processor, lengths)(list(kept)[:2])
    assert batch["attention_mask"].sum(1).tolist() == lengths.measure([row["messages"][:2] for row in list(kept)[:2]])


def test_rows_that_fit_change_nothing(parts, processor):
    mixture = load_mixture(parts, 30)
    for lengths in (RowLengths(processor), RowLengths(processor, 5000)):
        assert without_long_rows(mixture, lengths) is mixture


def test_a_part_of_long_rows_alone_is_refused(tmp_path, processor):
    rows = [{"messages": [{"role": "assistant", "content": LONG}]}]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    mixture = load_mixture([{"dataset": str(tmp_path), "name": "talk"}], 3)
    with pytest.raises(ValueError, match="talk: no row is left; give the part the weight 0"):
        without_long_rows(mixture, RowLengths(processor, LIMIT, long_rows="skip"))


def test_masks_have_short_requests(tmp_path, processor):
    """Found without reading a picture."""
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}],
        "categories": [{"id": 5, "name": "dog"}, {"id": 6, "name": LONG}],
        "annotations": [{"image_id": 1, "category_id": i, "segmentation": [[2, 3, 6, 3, 6, 7, 2, 7]]} for i in (5, 6)],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    part = {"dataset": "coco", "annotations": str(tmp_path / "coco.json"), "images": str(tmp_path)}
    kept = without_long_rows(load_mixture([part], 4), RowLengths(processor, LIMIT, long_rows="cut"))
    assert [row["concepts"] for row in kept] == [["dog"]] * 4  # of the other nothing of the answer would be left
