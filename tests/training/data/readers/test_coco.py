"""COCO's segmentations become exact masks, and its files rows of the schema; what is wrong with them is named."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.reader_testing import read_both, turns_of
from training.data import load_coco, load_coco_captions, load_refcoco
from training.data.entries.segmentations import draw_mask
from training.data.readers.coco import read_coco, read_coco_captions, read_refcoco

SIZE = (20, 10)  # width, height
SQUARE = [[2, 3, 6, 3, 6, 7, 2, 7]]  # columns 2 to 5, rows 3 to 6
CORNER = [[14, 0, 20, 0, 20, 4, 14, 4]]
CROWD = {"size": [10, 20], "counts": [0, 10, 190]}  # the first column

CATEGORIES = [{"id": 5, "name": "dog"}, {"id": 9, "name": "traffic light"}]
ANNOTATIONS = [
    {"id": 1, "image_id": 100, "category_id": 5, "segmentation": SQUARE, "iscrowd": 0},
    {"id": 2, "image_id": 200, "category_id": 9, "segmentation": SQUARE + CORNER, "iscrowd": 0},
    {"id": 3, "image_id": 100, "category_id": 5, "segmentation": CROWD, "iscrowd": 1},
    {"id": 4, "image_id": 100, "category_id": 9, "segmentation": CORNER, "iscrowd": 0},
]


def write(root: Path, name: str = "instances.json", **changes) -> tuple[Path, Path]:
    """An annotation file and the folder of its pictures."""
    (root / "images").mkdir(exist_ok=True)
    width, height = SIZE
    records = [{"id": i, "file_name": f"{i}.png", "width": width, "height": height} for i in (100, 200)]
    for record in records:
        Image.new("RGB", SIZE, (record["id"], 0, 0)).save(root / "images" / record["file_name"])
    file = root / name
    content = {"images": records, "categories": CATEGORIES, "annotations": ANNOTATIONS, **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return file, root / "images"


def annotation(**changes) -> list[dict]:
    return [*ANNOTATIONS, {**ANNOTATIONS[0], "category_id": 9, "image_id": 200, **changes}]


def mask_of(row: dict) -> np.ndarray:
    (mask,) = row["masks"]
    assert mask.mode == "L" and set(np.unique(mask)) <= {0, 255}
    return np.asarray(mask) == 255


def boxes(*corners: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros(SIZE[::-1], bool)
    for left, top, right, bottom in corners:
        mask[top:bottom, left:right] = True
    return mask


def test_a_row_per_picture_and_category_picture_by_picture(tmp_path):
    rows = load_coco(*write(tmp_path))
    assert len(rows) == 3
    assert [(row["images"][0].getpixel((0, 0))[0], row["concepts"]) for row in rows] == [
        (100, ["dog"]),
        (100, ["traffic light"]),
        (200, ["traffic light"]),
    ]
    for row in rows:
        user, assistant = row["messages"]
        assert row["task"] == "referring"
        assert user == {
            "role": "user",
            "content": [
                {"type": "image", "text": None},
                {"type": "text", "text": f"Segment the {row['concepts'][0]}."},
            ],
        }
        assert assistant == {"role": "assistant", "content": [{"type": "mask", "text": None}]}


def test_masks_are_unions_with_crowds(tmp_path):
    dogs, light, split_light = load_coco(*write(tmp_path))
    assert np.array_equal(mask_of(dogs), boxes((2, 3, 6, 7), (0, 0, 1, 10)))
    assert np.array_equal(mask_of(light), boxes((14, 0, 20, 4)))
    assert np.array_equal(mask_of(split_light), boxes((2, 3, 6, 7), (14, 0, 20, 4)))


def test_compressed_run_lengths(tmp_path):
    """Strings as pycocotools writes them: a square with a hole; long runs, negative differences and an empty end."""
    expected = np.zeros((5, 7), bool)
    expected[1:4, 2:5] = True
    expected[2, 3] = False
    for counts, padding in ((b";32NO0129", (0, 0)), (b"Sc03^9NcF0]92c_?", (300, 50))):
        height, width = 5 + padding[0], 7 + padding[1]
        Image.new("RGB", (width, height)).save(tmp_path / "picture.png")
        record = {"image_id": 1, "category_id": 5}
        record["segmentation"] = {"size": [height, width], "counts": counts.decode()}
        file, _ = write(tmp_path, images=[{"id": 1, "file_name": "picture.png"}], annotations=[record])
        (row,) = load_coco(file, tmp_path, min_area=0)
        assert np.array_equal(mask_of(row), np.pad(expected, ((0, padding[0]), (0, padding[1]))))


def test_polygons_cover_the_pixels_whose_centre_they_hold():
    triangle = np.array([(0, 0), (8, 0), (0, 8)], np.float32)
    x, y = np.meshgrid(np.arange(10) + 0.5, np.arange(10) + 0.5)
    assert np.array_equal(draw_mask([triangle], 10, 10), x + y < 8)
    assert np.array_equal(draw_mask([triangle[::-1]], 10, 10), x + y < 8)  # either sense of rotation
    outside = np.array([(-50, -50), (50, -50), (50, 5), (-50, 5)], np.float32)
    assert np.array_equal(draw_mask([outside], 10, 10), y < 5)
    turns = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    circle = np.stack([50 + 30 * np.cos(turns), 40 + 30 * np.sin(turns)], 1).astype(np.float32)
    assert draw_mask([circle], 100, 80).sum() == pytest.approx(np.pi * 30**2, rel=0.005)


def test_small_categories_are_left_out(tmp_path):
    files = write(tmp_path)  # the light of picture 100 covers 24 of 200 pixels, the dogs 26
    assert [row["concepts"][0] for row in load_coco(*files, min_area=0.13)] == ["dog", "traffic light"]
    with pytest.raises(ValueError, match="too small"):
        load_coco(*files, min_area=0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 300}, "no picture has the id 300"),
        ({"category_id": 7}, "no category has the id 7"),
        ({"segmentation": None}, "must be polygons or run lengths"),
        ({"segmentation": []}, "must be polygons or run lengths"),
        ({"segmentation": [[1, 2, 3, 4]]}, "three points or more"),
        ({"segmentation": [[1, 2, 3, 4, 5, "6"]]}, "three points or more"),
        ({"segmentation": [[30, 2, 33, 4, 35, 6]]}, "outside the picture"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "outside the picture"),
        ({"segmentation": [[1, 1, 5, 5, 9, 9]]}, "covers nothing"),
        ({"segmentation": {"size": [10, 20], "counts": [200]}}, "covers nothing"),
        ({"segmentation": {"size": [10, 20], "counts": [10, 20]}}, "sum to 30"),
        ({"segmentation": {"size": [20, 10], "counts": [0, 200]}}, "sum to 200"),
        ({"segmentation": {"size": [10, 20], "counts": [-1, 201]}}, "at least 0"),
        ({"segmentation": {"size": [10, 20], "counts": "0Z"}}, "end within a number"),
        ({"segmentation": {"size": [10, 20], "counts": "~"}}, "the character '~'"),
        ({"segmentation": {"size": [10, 20], "counts": "\ud800"}}, "the character"),
        ({"segmentation": {"size": [10, 20], "counts": "o" * 1_000_000}}, "more than 64 bits"),
        ({"segmentation": {"size": [10, 20], "counts": [True, 199]}}, "must be a list or a string of integers"),
        ({"segmentation": [[1, 2, 3, 4, 5, 10**400]]}, "outside the picture"),
        ({"segmentation": [[1, 2, 3, 4, 5, 1e300]]}, "outside the picture"),
        ({"segmentation": [[1, 2, 3, 4, 5, True]]}, "three points or more"),
        ({"segmentation": {"size": [[10], 20], "counts": [0, 200]}}, "sum to 200"),
        ({"image_id": [200]}, r"'annotations', entry 4: image_id must be a number or a text, not \[200\]"),
        ({"category_id": {}}, "entry 4: category_id must be a number or a text"),
        ({"category_id": None}, "entry 4: category_id must be a number or a text"),
    ],
)
def test_bad_annotations_are_named_or_skipped(tmp_path, changes, message):
    files = write(tmp_path, annotations=annotation(**changes))
    with pytest.raises(ValueError, match=message) as error:
        load_coco(*files)
    assert "1 bad row" in str(error.value) and "instances.json" in str(error.value)
    with pytest.warns(UserWarning, match=message):
        rows = load_coco(*files, on_error="skip")
    # An object that cannot be drawn takes its whole category out of the picture: the rest would be a wrong answer.
    assert len(rows) == 3 - (not {"image_id", "category_id"} & set(changes))


def test_bad_files(tmp_path):
    file, images = write(tmp_path)
    with pytest.raises(ValueError, match="not valid JSON"):
        load_coco(tmp_path / "missing.json", images)
    with pytest.raises(ValueError, match="'annotations' must be a list"):
        load_coco(*write(tmp_path, annotations=None))
    with pytest.raises(ValueError, match="entry 0: needed are the fields image_id, category_id"):
        load_coco(*write(tmp_path, annotations=[{"id": 1, "caption": "a dog"}]))
    with pytest.raises(ValueError, match="no rows in it"):
        load_coco(*write(tmp_path, annotations=[]))
    file, images = write(tmp_path)
    Image.new("RGB", (11, 10)).save(images / "200.png")
    with pytest.raises(ValueError, match="11x10 pixels, the annotations say 20x10"):
        load_coco(file, images)
    (images / "200.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot be read"):
        load_coco(file, images)


@pytest.mark.parametrize(
    ("key", "changes", "message"),
    [
        ("images", {"id": [1]}, "'images', entry 2: id must be a number or a text"),
        ("images", {"id": True}, "'images', entry 2: id must be a number or a text"),
        ("images", {"file_name": None}, "'images', entry 2: file_name must be text, not None"),
        ("images", {"file_name": ["100.png"]}, "'images', entry 2: file_name must be text"),
        ("images", {"file_name": "\ud800"}, "'images', entry 2: file_name holds half a character"),
        ("categories", {"id": {}}, "'categories', entry 2: id must be a number or a text"),
        ("categories", {"name": 5}, "'categories', entry 2: name must be text, not 5"),
        ("categories", {"name": " "}, "'categories', entry 2: name must be text, not ' '"),
        ("annotations", "no object", "'annotations', entry 2: needed are the fields image_id, category_id"),
    ],
)
def test_entries_of_a_wrong_type_are_named_or_skipped(tmp_path, key, changes, message):
    file, images = write(tmp_path)
    content = json.loads(file.read_text())
    content[key].insert(2, {**content[key][0], "id": 3, **changes} if isinstance(changes, dict) else changes)
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        load_coco(file, images)
    assert "instances.json" in str(error.value)
    with pytest.warns(UserWarning, match=message):
        assert len(load_coco(file, images, on_error="skip")) == 3


def test_ids_that_stand_for_several_entries_are_named(tmp_path):
    """The later of two does not take the place of the earlier in silence."""
    files = write(tmp_path)
    content = json.loads(files[0].read_text())
    (tmp_path / "refs.json").write_text(json.dumps([{"ann_id": 4, "split": "train", "sentences": [{"sent": "light"}]}]))
    for key, other, message in (
        ("images", {"id": 100, "file_name": "200.png"}, "more than one picture has the id 100"),
        ("categories", {"id": 9, "name": "owl"}, "more than one category has the id 9"),
        ("annotations", {**ANNOTATIONS[1], "id": 4}, "more than one annotation has the id 4"),
    ):
        files[0].write_text(json.dumps({**content, key: [*content[key], other]}))
        with pytest.raises(ValueError, match=message):
            load_refcoco(tmp_path / "refs.json", *files)
        if key != "annotations":  # which are not asked for by their id
            with pytest.raises(ValueError, match=message):
                load_coco(*files)
            with pytest.warns(UserWarning, match=message):
                assert len(load_coco(*files, on_error="skip")) == 1


@pytest.mark.parametrize("name", ["../outside.png", "link.png"])
def test_pictures_outside_the_folder_are_not_read(tmp_path, name):
    file, images = write(tmp_path)
    Image.new("RGB", SIZE).save(tmp_path / "outside.png")
    (images / "link.png").symlink_to(tmp_path / "outside.png")
    content = json.loads(file.read_text())
    for file_name in (name, str(images / name)):
        content["images"][1]["file_name"] = file_name
        file.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="leads out of the folder"):
            load_coco(file, images)


def test_entries_are_the_rows_without_their_pictures(tmp_path):
    """COCO's segmentations stand in place of masks, one list of them for each."""
    annotations, images = write(tmp_path)
    rows, problems = read_both(read_coco, annotations=annotations, images=images)
    assert problems == []
    loaded = load_coco(annotations, images)
    for key in ("task", "messages", "concepts", "question_type"):
        assert [row[key] for row in rows] == [row[key] for row in loaded]
    assert [Path(row["images"][0]).name for row in rows] == ["100.png", "100.png", "200.png"]
    segments = [[[SQUARE, CROWD]], [[CORNER]], [[SQUARE + CORNER]]]
    assert [json.loads(row["segments"]) for row in rows] == [{"size": list(SIZE), "masks": masks} for masks in segments]
    assert [row["origin"].partition(", ")[2] for row in rows] == [
        "picture 100, category 5",
        "picture 100, category 9",
        "picture 200, category 9",
    ]


def test_bad_entries_of_a_stream_are_named(tmp_path):
    annotations, images = write(tmp_path, annotations=[*annotation(segmentation=[]), {"image_id": 100}])
    rows, problems = read_both(read_coco, annotations=annotations, images=images, min_area=0.0)
    assert len(rows) == 2
    assert "'annotations', entry 5: needed are the fields image_id, category_id" in problems[0]
    assert "picture 200, category 9: the segmentation must be polygons or run lengths" in problems[1]
    for side in (None, 0, "20", 20.0, True, 10**400):
        pictures = [{"id": 100, "file_name": "100.png", "width": side, "height": 10}]
        annotations, images = write(tmp_path, images=pictures, annotations=ANNOTATIONS[:1])
        with pytest.raises(ValueError, match="the picture's width must be a whole number from 1"):
            load_coco(annotations, images)


def test_sentences_and_captions_as_entries(tmp_path):
    annotations, images = write(tmp_path)
    refs = tmp_path / "refs.json"
    sentences = [{"sent": "top right"}, {"sent": 5}]
    refs.write_text(json.dumps([{"ann_id": 4, "split": "train", "sentences": sentences}, {"ann_id": 1}]))
    (row,), problems = read_both(read_refcoco, refs=refs, annotations=annotations, images=images, split="train")
    assert turns_of(row) == ["Segment top right.", None]
    assert json.loads(row["segments"]) == {"size": list(SIZE), "masks": [[CORNER]]}
    assert "refs.json, entry 0, 'sentences', entry 1: sent must be text" in problems[0]
    assert "refs.json, entry 1: needed are the fields ann_id, split, sentences" in problems[1]

    captions = [{"image_id": 200, "caption": "A dog \n sits. "}, {"image_id": 300, "caption": "Two."}, {"caption": "A"}]
    annotations, images = write(tmp_path, name="captions.json", annotations=captions)
    (row,), problems = read_both(read_coco_captions, annotations=annotations, images=images)
    assert turns_of(row) == ["Describe the picture.", "A dog sits."]
    assert row["task"] == "caption" and row["images"] == [str(images / "200.png")]
    assert "captions.json, 'annotations', entry 1: no picture has the id 300" in problems[0]
    assert "captions.json, 'annotations', entry 2: needed are the fields image_id, caption" in problems[1]


def test_captions(tmp_path):
    captions = [{"id": 1, "image_id": 200, "caption": "A dog \n sits. "}, {"id": 2, "image_id": 100, "caption": "Two."}]
    rows = load_coco_captions(*write(tmp_path, annotations=captions))
    assert rows["task"] == ["caption", "caption"]
    assert [row["messages"][1]["content"][0]["text"] for row in rows] == ["A dog sits.", "Two."]
    assert [row["images"][0].getpixel((0, 0))[0] for row in rows] == [200, 100]
    with pytest.raises(ValueError, match="entry 2: caption must be text, not None"):
        load_coco_captions(*write(tmp_path, annotations=[*captions, {"image_id": 100, "caption": None}]))


def test_referring_expressions(tmp_path):
    refs = [
        {"ann_id": 4, "split": "train", "sentences": [{"sent": "light top right"}, {"sent": "the light. "}]},
        {"ann_id": 1, "split": "val", "sentences": [{"sent": "dog"}]},
    ]
    (tmp_path / "refs.json").write_text(json.dumps(refs))
    files = write(tmp_path)
    rows = load_refcoco(tmp_path / "refs.json", *files, split="train")
    requests = [row["messages"][0]["content"][1]["text"] for row in rows]
    assert requests == ["Segment light top right.", "Segment the light."]
    assert all(np.array_equal(mask_of(row), boxes((14, 0, 20, 4))) for row in rows)
    everything = load_refcoco(tmp_path / "refs.json", *files)
    assert np.array_equal(mask_of(everything[2]), boxes((2, 3, 6, 7)))  # this dog alone
    assert everything[2]["concepts"] == ["dog"]

    with pytest.raises(ValueError, match="no rows in it"):
        load_refcoco(tmp_path / "refs.json", *files, split="testA")
    for bad in ({"ann_id": [4]}, {"split": 5}, {"sentences": "light"}, {"sentences": [{"sent": ["light"]}, {}]}):
        (tmp_path / "refs.json").write_text(json.dumps([*refs, {**refs[0], **bad}]))
        with pytest.raises(ValueError, match=r"refs\.json, entry 2"):
            load_refcoco(tmp_path / "refs.json", *files)
        with pytest.warns(UserWarning, match=r"refs\.json, entry 2"):
            assert len(load_refcoco(tmp_path / "refs.json", *files, on_error="skip")) == 3
    refs[0]["ann_id"], refs[1]["sentences"] = 77, [{"sent": " "}]
    (tmp_path / "refs.json").write_text(json.dumps(refs))
    with pytest.raises(
        ValueError,
        match=r"(?s)3 bad rows.*no annotation has the id 77.*entry 1, 'sentences', entry 0: sent must be text",
    ):
        load_refcoco(tmp_path / "refs.json", *files)
