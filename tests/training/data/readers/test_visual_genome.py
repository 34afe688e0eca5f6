"""Visual Genome as released: regions that are asked about, captions of large ones, questions."""

import json
from copy import deepcopy

import pytest

from tests.reader_releases import VG_PICTURES, VG_QUESTIONS, VG_REGIONS, write_released_pictures
from tests.reader_testing import read_both, turns_of
from training.data.readers.visual_genome import (
    read_visual_genome_captions,
    read_visual_genome_questions,
    read_visual_genome_regions,
)


def write(root, regions=VG_REGIONS, image_data=VG_PICTURES):
    """The arguments of the readers of regions."""
    files = {"regions": root / "region_descriptions.json", "image_data": root / "image_data.json"}
    files["regions"].write_text(json.dumps(regions))
    files["image_data"].write_text(json.dumps(image_data))
    return files | {"images": write_released_pictures(root / "images")}


def asked(*box):
    return f"Please provide a short description for this region: {list(box)}."


def test_regions_are_asked_about_by_their_box(tmp_path):
    """Those that stand out of the picture, of 800x600 pixels, end at its edge."""
    rows, problems = read_both(read_visual_genome_regions, **write(tmp_path))
    assert problems == []
    assert [turns_of(row) for row in rows] == [
        [asked(0.53, 0.1, 0.63, 0.33), "the clock is green in colour"],
        [asked(0.0, 0.0, 1.0, 0.7), "a street in a city"],
        [asked(0.5, 0.25, 1.0, 0.75), "a desk"],
    ]
    assert [row["images"] for row in rows] == [
        [str(tmp_path / "images" / name)] for name in ("VG_100K_2/1.jpg", "VG_100K_2/1.jpg", "VG_100K/2.jpg")
    ]
    assert {row["task"] for row in rows} == {"question"}
    assert rows[1]["origin"].endswith("region_descriptions.json, picture 1, 'regions', entry 1")


def test_regions_of_a_picture_in_one_row(tmp_path):
    rows, _ = read_both(read_visual_genome_regions, **write(tmp_path), per_picture=True)
    assert [turns_of(row)[1::2] for row in rows] == [["the clock is green in colour", "a street in a city"], ["a desk"]]


@pytest.mark.parametrize(
    ("min_area", "captions"),
    [
        (0.0, ["the clock is green in colour", "a street in a city", "a desk"]),
        (0.25, ["a street in a city", "a desk"]),
        (0.5, ["a street in a city"]),
    ],
)
def test_large_regions_caption_their_picture(tmp_path, min_area, captions):
    rows, problems = read_both(read_visual_genome_captions, **write(tmp_path), min_area=min_area)
    assert problems == []
    assert [turns_of(row) for row in rows] == [["Describe the picture.", caption] for caption in captions]
    assert {row["task"] for row in rows} == {"caption"}


def test_too_small_regions_are_told(tmp_path):
    with pytest.raises(ValueError, match=r"region_descriptions.json: no row is left, .* less than 0.9 of"):
        list(read_visual_genome_captions(**write(tmp_path), min_area=0.9))


def test_questions(tmp_path):
    arguments = write(tmp_path)
    arguments["questions"] = arguments.pop("regions").with_name("question_answers.json")
    arguments["questions"].write_text(json.dumps(VG_QUESTIONS))
    turns = ["What color is the clock?", "Green.", "Where is the man?", "On the sidewalk."]
    rows, problems = read_both(read_visual_genome_questions, **arguments)
    assert problems == []
    assert [turns_of(row) for row in rows] == [turns[:2], turns[2:]]
    (row,), _ = read_both(read_visual_genome_questions, **arguments, per_picture=True)
    assert turns_of(row) == turns
    assert row["task"] == "question" and row["question_type"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"phrase": " "}, "phrase must be text, not ' '"),
        ({"x": "5"}, "x must be a number, not '5'"),
        ({"width": float("nan")}, "width must be a number, not nan"),
        ({"height": True}, "height must be a number, not True"),
        ({"y": 10**400}, "y must be a number"),
        ({"x": 800}, "the region covers nothing of the picture"),
        ({"height": -5}, "the region covers nothing of the picture"),
    ],
)
@pytest.mark.parametrize("reader", [read_visual_genome_regions, read_visual_genome_captions])
def test_bad_regions_are_named(tmp_path, changes, message, reader):
    regions = deepcopy(VG_REGIONS)
    regions[0]["regions"][0] |= changes
    rows, (problem,) = read_both(reader, **write(tmp_path, regions))
    assert f"region_descriptions.json, picture 1, 'regions', entry 0: {message}" in problem
    assert len(rows) == (2 if reader is read_visual_genome_regions else 1)


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"image_id": 3}, ["picture 1, 'regions', entry 0: no picture has the image_id 1"] * 2),
        ({"image_id": 2}, ["entry 0: no picture has the image_id 1", "entry 1: no picture", "more than one picture"]),
        ({"url": "https://somewhere/VG_100K/9.jpg"}, ["picture 'VG_100K/9.jpg' does not exist"] * 2),
        ({"url": None}, ["no picture has the image_id 1"] * 2 + ["image_data.json, entry 0: url must be text"]),
        ({"width": 0}, ["the picture's width must be a whole number from 1"] * 2),
        ({"height": None}, ["the picture's height must be a whole number from 1"] * 2),
    ],
)
def test_bad_pictures_are_named(tmp_path, changes, messages):
    pictures, regions = deepcopy(VG_PICTURES), [*deepcopy(VG_REGIONS), {**VG_REGIONS[1], "id": 5}]
    pictures = [{**pictures[0], **changes}, pictures[1], {**pictures[1], "image_id": 5}]
    rows, problems = read_both(read_visual_genome_regions, **write(tmp_path, regions, pictures))
    assert len(problems) == len(messages)
    for problem, message in zip(problems, messages, strict=True):
        assert message.split("entry 0: ")[-1] in problem
    assert len(rows) == (1 if "more than one picture" in messages else 2)


@pytest.mark.parametrize("key", ["regions", "image_data"])
def test_other_files_are_refused(tmp_path, key):
    with pytest.raises(ValueError, match="must hold a list, not a dict"):
        list(read_visual_genome_regions(**write(tmp_path, **{key: {}})))
