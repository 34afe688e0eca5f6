"""Every kind of data comes out in the one schema; nothing broken passes unnamed."""

import json
import warnings
from pathlib import Path

import pytest
from PIL import Image

from tests.row_testing import plain
from training.data import FEATURES, TASKS, EmojiScenes, load_image_folder, load_image_folder_json


def write_rows(root: Path, rows) -> Path:
    (root / "images" / "deep").mkdir(parents=True)
    Image.new("RGB", (20, 10), "red").save(root / "images" / "red.png")
    Image.effect_noise((64, 64), 90).convert("RGB").save(root / "images" / "deep" / "noise.jpg")
    Image.new("L", (20, 10), 255).save(root / "images" / "mask.png")
    (root / "data.json").write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return root


def part(kind: str, text: str | None = None) -> dict:
    return {"type": kind, "text": text}


def test_every_kind_of_row(tmp_path):
    rows = [
        {
            "id": 7,
            "image": "red.png",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is it?"},
                {"from": "gpt", "value": "Red."},
            ],
        },
        {
            "image": ["red.png", "deep/noise.jpg"],
            "conversations": [
                {"from": "human", "value": "First <image>, then <image>"},
                {"from": "gpt", "value": "Yes"},
            ],
        },
        {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]},
        {"image": "red.png", "caption": "a red picture"},
        {"image": "red.png", "concepts": ["red"], "masks": ["mask.png"]},
        {"image": "images/red.png", "labels": ["red", "flat"]},
        {"image": "red.png"},
        {
            "images": ["red.png"],
            "masks": ["mask.png"],
            "messages": [
                {"role": "user", "content": "<image> Segment it."},
                {"role": "assistant", "content": [{"type": "mask"}]},
            ],
        },
    ]
    loaded = load_image_folder_json(write_rows(tmp_path, rows))
    assert loaded.features == FEATURES
    assert loaded["task"] == [
        "conversation",
        "conversation",
        "conversation",
        "caption",
        "concepts",
        "concepts",
        "reconstruction",
        "conversation",
    ]
    assert loaded[0]["messages"] == [
        {"role": "user", "content": [part("image"), part("text", "What is it?")]},
        {"role": "assistant", "content": [part("text", "Red.")]},
    ]
    assert [p["type"] for p in loaded[1]["messages"][0]["content"]] == ["text", "image", "text", "image"]
    assert [image.size for image in loaded[1]["images"]] == [(20, 10), (64, 64)]
    assert loaded[2]["images"] == []
    assert loaded[3]["messages"][1]["content"] == [part("text", "a red picture")]
    assert loaded[4]["concepts"] == ["red"] and loaded[4]["masks"][0].mode == "L"
    assert loaded[5]["concepts"] == ["red", "flat"]
    assert loaded[6]["messages"] == [] and loaded[6]["images"][0].getpixel((0, 0)) == (255, 0, 0)
    assert loaded[7]["messages"][1]["content"] == [part("mask")]


def turn(role: str, *kinds: str) -> dict:
    return {"role": role, "content": [part(kind, "Hello" if kind == "text" else None) for kind in kinds]}


GOOD = {"image": "red.png"}
MASKED = {"images": ["red.png"], "masks": ["mask.png"]}
BAD_ROWS = [
    (17, "17"),
    ({"picture": "red.png"}, "picture"),
    ({"image": "gone.png"}, "gone.png"),
    ({"image": 3}, "path"),
    ({"image": "text.png"}, "text.png.*cannot be read"),
    ({"image": "short.png"}, "short.png.*cannot be read"),
    ({"image": "short.jpg"}, "short.jpg.*cannot be read"),
    ({"image": "red.png", "caption": 5}, "caption"),
    ({"image": "red.png", "concepts": ["red", 1]}, "concepts"),
    ({"image": ["red.png", "red.png"]}, "one picture, not 2"),
    ({"image": "red.png", "masks": ["mask.png"]}, "1 masks but 0 concepts"),
    ({"image": "red.png", "concepts": ["red"], "masks": ["red.png"]}, "0 or 255"),
    ({"image": "deep/noise.jpg", "concepts": ["red"], "masks": ["mask.png"]}, "20x10.*64x64"),
    ({"image": "red.png", "conversations": []}, "conversations"),
    ({"image": "red.png", "conversations": [{"from": "human", "value": "no place"}]}, "1 pictures but 0 places"),
    ({"conversations": [{"from": "human", "value": "<image> none"}]}, "0 pictures but 1 places"),
    ({"conversations": [{"from": "bot", "value": "x"}]}, "bot"),
    ({"conversations": [{"from": "gpt", "value": 5}]}, "'value'.*5"),
    ({"conversations": [{"from": "gpt", "value": " "}]}, "empty"),
    ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "video"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "'content'"),
    ({"messages": [{"role": "user", "content": [{"type": "mask"}]}], "images": []}, "0 masks but 1 places"),
    # What training would die of, at whatever step
    ({"conversations": [{"from": "human", "value": "Hello"}]}, "no assistant's turn to learn from"),
    ({"messages": [{"role": "system", "content": "Hello"}]}, "no assistant's turn to learn from"),
    ({"messages": [{"role": "assistant", "content": [{"type": "text", "text": " "}]}]}, "a turn is empty"),
    ({"messages": 5}, "messages must be a list of turns, not 5"),
    ({"image": "red.png", "caption": " "}, "the caption must be text, not ' '"),
    ({"image": "red.png", "caption": None}, "the caption must be text, not None"),
    (
        MASKED | {"messages": [turn("user", "image"), turn("user", "mask"), turn("assistant", "text")]},
        "the assistant's",
    ),
    (MASKED | {"messages": [turn("assistant", "mask"), turn("user", "image")]}, "must follow the row's first picture"),
    (
        MASKED | {"images": ["red.png"] * 2, "messages": [turn("user", "image", "image"), turn("assistant", "mask")]},
        "must follow the row's first picture.*and no second",
    ),
    (MASKED | {"messages": [turn("user", "image"), turn("assistant", "text")]}, "1 masks but 0 concepts"),
    # Wrong types
    ({"conversations": [{"from": ["human"], "value": "x"}]}, r"'from'.*\['human'\]"),
    ({"conversations": [{"from": None, "value": "x"}]}, "'from'.*None"),
    ({"image": {"bytes": "text"}}, "path"),
    ({"image": "red.png", "labels": {"a": 1}}, "a name in concepts must be text"),
    # Half a character, which no file can hold
    ({"image": "red.png", "caption": "a \ud800"}, "the caption holds half a character"),
    ({"image": "red.png", "labels": ["\udfff"]}, "a name in concepts holds half a character"),
    ({"image": "\ud800.png"}, "the path of a picture holds half a character"),
    ({"conversations": [{"from": "gpt", "value": "\ud83d"}]}, "'value' of a turn holds half a character"),
    ({"image": "red.png", "task": "\ud800"}, "task holds half a character"),
    # Paths to nowhere, or out of the folder
    ({"image": "a\0b.png"}, "does not exist"),
    ({"image": "a" * 5000}, "does not exist"),
    ({"image": "deep"}, "does not exist"),
    ({"image": "../../outside.png"}, "leads out of the folder.*copy it into the folder"),
    ({"image": "link.png"}, "leads out of the folder"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_ROWS)
def test_bad_rows_are_named_and_refused_or_skipped(tmp_path, bad, reason):
    root = write_rows(tmp_path / "data", [GOOD, GOOD, bad, GOOD])
    Image.new("RGB", (20, 10)).save(tmp_path / "outside.png")
    (root / "images" / "link.png").symlink_to(tmp_path / "outside.png")
    (root / "images" / "text.png").write_text("no picture")
    for name, whole in (("short.png", "deep/noise.jpg"), ("short.jpg", "deep/noise.jpg")):
        Image.open(root / "images" / whole).save(root / "images" / name)
        whole_bytes = (root / "images" / name).read_bytes()
        (root / "images" / name).write_bytes(whole_bytes[: len(whole_bytes) // 2])
    with pytest.raises(ValueError, match=rf"(?s)data\.json, row 2: .*{reason}"):
        load_image_folder_json(root)
    with pytest.warns(UserWarning, match=rf"(?s)skipped 1 bad rows.*data\.json, row 2: .*{reason}") as caught:
        loaded = load_image_folder_json(root, on_error="skip")
    assert len(loaded) == 3 and len(caught) == 1


def test_a_folder_of_pictures_may_be_a_link_and_paths_may_be_absolute(tmp_path):
    root = write_rows(tmp_path / "data", [])
    (root / "images").rename(tmp_path / "elsewhere")
    (root / "images").symlink_to(tmp_path / "elsewhere")
    rows = [{"image": "red.png"}, {"image": str(tmp_path / "elsewhere" / "red.png")}]
    (root / "data.json").write_text(json.dumps(rows))
    assert len(load_image_folder_json(root)) == 2
    (root / "data.json").write_text(json.dumps([{"image": str(write_rows(tmp_path / "other", []) / "images/red.png")}]))
    with pytest.raises(ValueError, match="leads out of the folder"):
        load_image_folder_json(root)


def test_links_out_of_a_folder_of_pictures(tmp_path):
    root = write_rows(tmp_path / "data", [])
    Image.new("RGB", (20, 10)).save(tmp_path / "outside.png")
    (root / "images" / "link.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(ValueError, match=r"link\.png, row 1: .*leads out of the folder"):
        load_image_folder(root)
    with pytest.warns(UserWarning, match="leads out of the folder"):
        assert len(load_image_folder(root, on_error="skip")) == 3


def test_what_rows_are_needed_for(tmp_path):
    two = {"image": ["red.png"] * 2, "conversations": [{"from": "gpt", "value": "<image> and <image>"}]}
    rows = [GOOD, {"image": "red.png", "labels": ["red"]}, {"image": "red.png", "caption": "Red."}, two]
    root = write_rows(tmp_path, rows)
    assert len(load_image_folder_json(root)) == 4
    with pytest.warns(
        UserWarning, match="(?s)skipped 2 bad rows.*row 0: no conversation or caption to learn from.*row 1"
    ):
        assert load_image_folder_json(root, "skip", needs="answer")["task"] == ["caption", "conversation"]
    with pytest.raises(ValueError, match="row 3: 2 pictures; SeTok is trained on rows with one"):
        load_image_folder_json(root, needs="picture")


def test_text_is_text(tmp_path):
    """`<image>` stands for a picture in a turn that is one text; nothing else that is written is a mark."""
    said = "[Img]<image>[/Img]<mask><|im_end|>"
    rows = [
        {"image": "red.png", "caption": said},
        {"messages": [{"role": "assistant", "content": [part("text", said)]}]},
        {"image": "red.png", "conversations": [{"from": "gpt", "value": said}]},
    ]
    loaded = load_image_folder_json(write_rows(tmp_path, rows))
    assert [row["messages"][-1]["content"] for row in loaded] == [
        [part("text", said)],
        [part("text", said)],
        [part("text", "[Img]"), part("image"), part("text", "[/Img]<mask><|im_end|>")],
    ]


def test_many_bad_rows(tmp_path):
    root = write_rows(tmp_path, [GOOD] + [{"image": f"gone{i}.png"} for i in range(30)])
    with pytest.raises(ValueError, match="30 bad rows") as error:
        load_image_folder_json(root)
    assert "gone0.png" in str(error.value) and "gone29.png" not in str(error.value)
    with pytest.warns(UserWarning, match="(?s)skipped 30 bad rows.*gone0.png.*gone29.png"):
        assert len(load_image_folder_json(root, on_error="skip")) == 1


def test_good_rows_give_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image_folder_json(write_rows(tmp_path, [GOOD]), on_error="skip")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("[{", "not valid JSON"),
        ("{}", "must hold a list"),
        ("[]", "no rows in it"),
        ("[1]", "row 0"),
    ],
)
def test_broken_json(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        load_image_folder_json(write_rows(tmp_path, content))


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="load_image_folder"):
        load_image_folder_json(tmp_path)
    with pytest.raises(ValueError, match="raise"):
        load_image_folder_json(write_rows(tmp_path, [GOOD]), on_error="ignore")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no row is left"):
        load_image_folder_json(write_rows(tmp_path / "bad", [{"image": "gone.png"}]), on_error="skip")


def test_image_folder(tmp_path):
    root = write_rows(tmp_path, [])
    loaded = load_image_folder(root)
    assert loaded.features == FEATURES and set(loaded["task"]) == {"reconstruction"}
    assert sorted(row["images"][0].size for row in loaded) == [(20, 10), (20, 10), (64, 64)]
    (root / "images" / "bad.webp").write_text("no picture")
    with pytest.raises(ValueError, match=r"bad\.webp, row 0: .*cannot be read"):
        load_image_folder(root)
    with pytest.warns(UserWarning, match=r"bad\.webp"):
        assert len(load_image_folder(root, on_error="skip")) == 3
    with pytest.raises(ValueError, match="no pictures"):
        load_image_folder(tmp_path / "nowhere")


def test_turned_photographs_fit_their_masks(tmp_path):
    root = write_rows(tmp_path, [{"image": "turned.jpg", "concepts": ["red"], "masks": ["mask.png"]}])
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    Image.new("RGB", (10, 20), "red").save(root / "images" / "turned.jpg", exif=exif)
    row = load_image_folder_json(root)[0]
    assert row["images"][0].size == row["masks"][0].size == (20, 10)


def test_emoji_scenes_through_data_json(tmp_path):
    scenes = EmojiScenes("validation", 2 * len(TASKS), tasks=tuple(TASKS))
    (tmp_path / "images").mkdir()
    rows = []
    for i, row in enumerate(scenes):
        for column in ("images", "masks"):
            names = [f"{i}_{column}_{k}.png" for k in range(len(row[column]))]
            for picture, name in zip(row[column], names, strict=True):
                picture.save(tmp_path / "images" / name)
            row = {**row, column: names}
        rows.append(row)
    (tmp_path / "data.json").write_text(json.dumps(rows))
    assert [plain(row) for row in load_image_folder_json(tmp_path)] == [plain(row) for row in scenes]
