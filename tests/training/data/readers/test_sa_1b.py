"""SA-1B as released becomes requests for the largest masks of a picture, by the point that each was found from."""

import json
from copy import deepcopy

import numpy as np
import pytest

from tests.reader_releases import SA_1B, SIZE, write_released_pictures
from tests.reader_testing import read_both, turns_of
from training.data.readers.sa_1b import read_sa_1b

FIRST = ["Segment what is at [0.156, 0.5].", None]
SECOND = ["Segment what is at [0.025, 0.4].", None]
THIRD = ["Segment what is at [0.95, 0.9].", None]


def write(root, **contents):
    """The folder, with contents of some of its JSON files."""
    write_released_pictures(root)
    for name, content in (contents or {"sa_1": SA_1B}).items():
        (root / "sa_000000" / f"{name}.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(
    ("options", "turns"),
    [
        ({}, FIRST + SECOND + THIRD),
        ({"most_masks": 1}, FIRST),
        ({"most_masks": 2}, FIRST + SECOND),
        ({"min_area": 0.05}, FIRST + SECOND),
    ],
)
def test_the_largest_masks_of_a_picture(tmp_path, options, turns):
    (row,), problems = read_both(read_sa_1b, folder=write(tmp_path), **options)
    assert problems == []
    assert row["task"] == "outlines" and row["concepts"] == []
    assert row["images"] == [str(tmp_path / "sa_000000" / "sa_1.jpg")]
    assert row["origin"] == str(tmp_path / "sa_000000" / "sa_1.json")
    assert turns_of(row) == turns
    segmentations = [SA_1B["annotations"][number]["segmentation"] for number in (1, 0, 2)]
    expected = [[one] for one in segmentations[: len(turns) // 2]]
    assert json.loads(row["segments"]) == {"size": list(SIZE), "masks": expected}


def test_the_masks_are_those_of_the_file(tmp_path):
    (entry,) = read_sa_1b(write(tmp_path))
    first, second, third = (np.asarray(mask) == 255 for mask in entry.row("answer", look=True)["masks"])
    columns, rows = np.arange(SIZE[0]), np.arange(SIZE[1])[:, None]
    assert np.array_equal(first, np.broadcast_to((columns >= 2) & (columns < 6), SIZE[::-1]))
    assert np.array_equal(second, np.broadcast_to(columns == 0, SIZE[::-1]))
    assert np.array_equal(third, (columns == 19) & (rows == 9))


def test_pictures_with_small_masks_alone_are_left_out(tmp_path):
    small = {**SA_1B, "annotations": SA_1B["annotations"][2:]}
    assert len(list(read_sa_1b(write(tmp_path, sa_1=SA_1B, sa_2=small), min_area=0.01))) == 1
    with pytest.raises(ValueError, match="no row is left, all masks cover less than 0.3 of their picture"):
        list(read_sa_1b(tmp_path, min_area=0.3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"area": "40"}, "area must be a number, not '40'"),
        ({"area": float("nan")}, "area must be a number, not nan"),
        ({"point_coords": []}, r"point_coords must be [[x, y]], not []"),
        ({"point_coords": [[1, 2, 3]]}, r"point_coords must be [[x, y]], not [[1, 2, 3]]"),
        ({"point_coords": [["1", 2]]}, "a point's place must be a number, not '1'"),
        ({"point_coords": [[21, 2]]}, "the point [21, 2] lies outside the picture of 20x10 pixels"),
        ({"segmentation": None}, "the segmentation must be polygons or run lengths, not None"),
        ({"segmentation": {"size": [10, 20], "counts": [20, 40]}}, "sum to 60; the picture has [10, 20], 200 pixels"),
    ],
)
def test_bad_masks_are_named(tmp_path, changes, message):
    content = deepcopy(SA_1B)
    content["annotations"][1] |= changes
    rows, (problem,) = read_both(read_sa_1b, folder=write(tmp_path, sa_1=content, sa_2=SA_1B))
    assert len(rows) == 1
    assert problem.startswith(f"{tmp_path / 'sa_000000' / 'sa_1.json'}: ") and message in problem


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "must hold a dict, not a list"),
        ({"image": SA_1B["image"]}, "needed are the fields annotations"),
        ({**SA_1B, "image": None}, "needed are the fields file_name, not None"),
        ({**SA_1B, "image": {**SA_1B["image"], "file_name": "sa_9.jpg"}}, "picture 'sa_9.jpg' does not exist"),
        ({**SA_1B, "image": {**SA_1B["image"], "width": 0}}, "the picture's width must be a whole number from 1"),
        ({**SA_1B, "image": {**SA_1B["image"], "width": 21}}, "the picture has [10, 21], 210 pixels"),
        ({**SA_1B, "annotations": [5]}, "needed are the fields area, point_coords, not 5"),
    ],
)
def test_bad_files_of_pictures_are_named(tmp_path, content, message):
    rows, (problem,) = read_both(read_sa_1b, folder=write(tmp_path, sa_1=content, sa_2=SA_1B))
    assert len(rows) == 1
    assert "sa_1.json: " in problem and message in problem


def test_other_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="most_masks must be at least 1"):
        list(read_sa_1b(write(tmp_path), most_masks=0))
    with pytest.raises(ValueError, match="holds no .json files"):
        list(read_sa_1b(tmp_path / "VG_100K"))
