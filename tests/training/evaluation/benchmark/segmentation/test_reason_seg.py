"""ReasonSeg's files: a JPEG and a JSON beside it, as the release of LISA has them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.entries.segmentations import mask_of
from training.evaluation.benchmark.benchmark import Networks
from training.evaluation.benchmark.segmentation.reason_seg import IGNORED, REASON_SEG, TARGET

SIZE = (20, 10)  # width, height
TEXTS = ["the object that keeps the rain off", "what would a person hold in the rain"]


def shape(label: str, *points: tuple[float, float]) -> dict:
    return {
        "label": label,
        "labels": [label],
        "shape_type": "polygon",
        "image_name": "1.jpg",
        "points": [list(point) for point in points],
        "group_id": None,
        "group_ids": [None],
        "flags": {},
    }


def rectangle(left: int, top: int, right: int, bottom: int) -> list[tuple[float, float]]:
    """Corners of a polygon that covers these columns and rows, the last ones included."""
    return [(left + 0.4, top + 0.4), (right + 0.4, top + 0.4), (right + 0.4, bottom + 0.4), (left + 0.4, bottom + 0.4)]


def write(root: Path, name: str = "1", split: str = "val", encoding: str = "utf-8", **changes) -> Path:
    (root / split).mkdir(exist_ok=True)
    Image.new("RGB", SIZE, "grey").save(root / split / f"{name}.jpg")
    content = {"text": TEXTS, "is_sentence": False, "shapes": [shape("target", *rectangle(2, 3, 5, 6))], **changes}
    file = root / split / f"{name}.json"
    file.write_text(json.dumps(content, ensure_ascii=False), encoding=encoding)
    return file


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros(SIZE[::-1], bool)
    mask[top : bottom + 1, left : right + 1] = True
    return mask


def test_a_picture_is_an_example_with_its_first_text(tmp_path):
    write(tmp_path)
    write(tmp_path, "2", is_sentence=True, text=["What’s wet?"], encoding="cp1252")
    first, second = REASON_SEG.read(tmp_path, "val")
    assert (first.key, first.request, first.group) == ("val/1", TEXTS[0], "short")
    assert (second.key, second.request, second.group) == ("val/2", "What’s wet", "long")
    assert first.pictures()[0].size == SIZE


def test_small_shapes_lie_on_large_ones(tmp_path):
    shapes = [
        shape("Ignore", *rectangle(4, 4, 5, 5)),
        shape("target", *rectangle(2, 2, 9, 7)),
        shape("flag", *rectangle(0, 0, 19, 9)),
        shape("target", *rectangle(0, 0, 0, 0)),
    ]
    write(tmp_path, shapes=shapes)
    expected = np.zeros(SIZE[::-1], np.uint8)
    expected[box(2, 2, 9, 7)] = TARGET
    expected[box(4, 4, 5, 5)] = IGNORED
    expected[0, 0] = TARGET
    (example,) = REASON_SEG.read(tmp_path, "val")
    assert np.array_equal(example.truth(), expected)


def test_scores_by_hand(tmp_path):
    write(tmp_path)  # 4 x 4 pixels
    shapes = [shape("target", *rectangle(0, 0, 9, 3)), shape("ignore", *rectangle(10, 0, 19, 1))]
    write(tmp_path, "2", is_sentence=True, shapes=shapes)  # 10 x 4 pixels, and 20 that do not count
    examples = REASON_SEG.read(tmp_path, "val")
    perfect = REASON_SEG.score(examples, [example.truth() == TARGET for example in examples], Networks())
    assert perfect.pop("num_examples") == 2
    assert set(perfect.values()) == {1.0} and len(perfect) == 6
    # 8 of 16 pixels, 4 wrong ones; 40 of 40, 2 wrong ones, and 20 where it does not matter
    answers = [box(2, 5, 5, 7), box(0, 0, 9, 3) | box(10, 0, 19, 1) | box(18, 9, 19, 9)]
    found = REASON_SEG.score(examples, answers, Networks())
    assert found["giou_short"] == found["ciou_short"] == pytest.approx(8 / 20)
    assert found["giou_long"] == found["ciou_long"] == pytest.approx(40 / 42)
    assert found["giou"] == pytest.approx((8 / 20 + 40 / 42) / 2)
    assert found["ciou"] == pytest.approx(48 / 62)


def test_a_group_without_examples_has_no_result(tmp_path):
    write(tmp_path)
    examples = REASON_SEG.read(tmp_path, "val")
    found = REASON_SEG.score(examples, [examples[0].truth() == TARGET], Networks())
    assert found == {"num_examples": 1, "giou": 1, "ciou": 1, "giou_short": 1, "ciou_short": 1}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"text": []}, "has no 'text'"),
        ({"is_sentence": "yes"}, "'is_sentence' must be true or false"),
        ({"shapes": [{"label": "target"}]}, "needed are label, points"),
        ({"shapes": [shape("target", (1, 2, 3))]}, r"a point must be \[x, y\]"),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path, changes, message):
    file = write(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as error:
        REASON_SEG.read(tmp_path, "val")
    assert str(file) in str(error.value)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="There is no val in"):
        REASON_SEG.read(tmp_path, "val")
    write(tmp_path).unlink()
    with pytest.raises(ValueError, match="1.json is missing"):
        REASON_SEG.read(tmp_path, "val")
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match="holds no .jpg"):
        REASON_SEG.read(tmp_path, "test")


def test_a_mask_of_another_size_is_refused(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match=r"the mask is \(4, 4\), and the picture \(10, 20\)"):
        REASON_SEG.score(REASON_SEG.read(tmp_path, "val"), [np.zeros((4, 4), bool)], Networks())


def test_through_the_command(run, setokim_folder, tmp_path):
    write(tmp_path)
    write(tmp_path, "2", is_sentence=True)
    measured = run("reason-seg", setokim_folder, tmp_path, tmp_path / "results.json")
    masks = [mask_of(line["answer"]) for line in measured.predictions[1:]]
    expected = REASON_SEG.score(REASON_SEG.read(tmp_path, "val"), masks, Networks())
    assert {key: measured.results[key] for key in expected} == expected
    assert "phrases" in measured.table and "sentences" in measured.table
