"""LLaVA's JSON as LLaVA, ALLaVA and ShareGPT4V release it."""

import json

import pytest
from PIL import Image

from tests.reader_testing import llava, read_entries
from training.data import schema
from training.data.readers.llava import read_llava

RELEASED = [
    {"id": "GCC_train_002582585", "image": "GCC_train_002582585.jpg", "conversations": llava("Show.\n<image>", "A.")},
    {"id": "004539375", "image": "00453/004539375.jpg", "conversations": llava("<image>\nRender a summary.", "B.")},
    {
        "id": "000000033471",
        "image": "coco/train2017/000000033471.jpg",
        "conversations": llava("<image>\nWhat colours?", "White and red.", "Is it open?", "Yes."),
    },
    {"id": "140031996X", "image": "ocr_vqa/images/140031996X.jpg", "conversations": llava("<image>\nWho?", "H. Brown")},
    {"id": "wgByO4Y_0", "model": "gpt-4", "conversations": llava("Hi", "Hello")},
    {
        "id": "allava_laion_cap_100277305",
        "image": "allava_laion/images/100277305.jpeg",
        "conversations": llava("<image>\nPlease depict the image in words.", "A silver ring."),
        "original_caption": "190952cz Pandora Tropical Palm Leaf Ring",
    },
    {"idx": "heR0vZB", "conversations": llava("Introduce yourself.", "- Hi there!")},
    {"id": "sa_545504", "image": "sam/images/sa_545504.jpg", "conversations": llava("<image>\nShow.", "A fountain.")},
]  # fmt: skip
BAD = [
    ("text", "an entry must be an object with conversations"),
    ({"image": "sam/images/sa_545504.jpg"}, "an entry must be an object with conversations"),
    ({"image": "sam/images/missing.jpg", "conversations": llava("<image>", "A.")}, "does not exist"),
    ({"image": 5, "conversations": llava("<image>", "A.")}, "the path of a picture must be text, not 5"),
    ({"image": "../outside.jpg", "conversations": llava("<image>", "A.")}, "leads out of the folder"),
    ({"url": "a.com/a.jpg", "conversations": llava("<image>\nDepict it.", "A.")}, "0 pictures but 1 places"),
    ({"conversations": llava("Hi", "")}, "a turn is empty"),
    ({"conversations": [{"from": "bing", "value": "Hi"}]}, "'from' of a turn must be one of"),
]


def write(root, entries):
    """The file, and the folders of LLaVA-Pretrain and of the others, with a GIF and a PNG among the JPEGs."""
    folders = [root / "LLaVA-Pretrain", root / "data"]
    endings = {"140031996X.jpg": ".gif", "004539375.jpg": ".png"}
    for i, entry in enumerate(RELEASED):
        if "image" in entry:
            path = folders[i > 1] / entry["image"]
            path = path.with_suffix(endings.get(path.name, path.suffix))
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (i * 20, 0, 0)).save(path)
    Image.new("RGB", (8, 8)).save(root / "outside.jpg")
    (root / "chat.json").write_text(json.dumps(entries))
    return {"file": root / "chat.json", "images": [str(folder) for folder in folders]}


def test_each_released_form_is_a_conversation(tmp_path):
    rows, problems = read_entries(read_llava, **write(tmp_path, RELEASED))
    assert not problems and [row["task"] for row in rows] == ["conversation"] * len(RELEASED)
    assert [row["images"] for row in rows] == [
        [f"{tmp_path}/LLaVA-Pretrain/GCC_train_002582585.jpg"],
        [f"{tmp_path}/LLaVA-Pretrain/00453/004539375.png"],
        [f"{tmp_path}/data/coco/train2017/000000033471.jpg"],
        [f"{tmp_path}/data/ocr_vqa/images/140031996X.gif"],
        [],
        [f"{tmp_path}/data/allava_laion/images/100277305.jpeg"],
        [],
        [f"{tmp_path}/data/sam/images/sa_545504.jpg"],
    ]
    assert rows[0]["messages"] == schema.exchange([schema.text("Show."), schema.image()], [schema.text("A.")])
    assert rows[2]["messages"] == [
        *schema.exchange([schema.image(), schema.text("What colours?")], [schema.text("White and red.")]),
        *schema.exchange([schema.text("Is it open?")], [schema.text("Yes.")]),
    ]
    assert rows[4]["messages"] == schema.exchange([schema.text("Hi")], [schema.text("Hello")])


def test_bad_entries_are_named(tmp_path):
    rows, problems = read_entries(read_llava, **write(tmp_path, [RELEASED[0], *(entry for entry, _ in BAD)]))
    assert len(rows) == 1 and len(problems) == len(BAD)
    for number, (problem, (_, reason)) in enumerate(zip(problems, BAD, strict=True), 1):
        assert problem.startswith(f"chat.json, entry {number}: ") and reason in problem


def test_a_folder_may_be_a_link_to_another_that_is_given(tmp_path):
    arguments = write(tmp_path, [RELEASED[4], RELEASED[2]])
    (tmp_path / "data" / "coco").rename(tmp_path / "COCO")
    (tmp_path / "data" / "coco").symlink_to(tmp_path / "COCO")
    rows, problems = read_entries(read_llava, **arguments)
    assert len(rows) == 1 and "leads out of the folder" in problems[0]
    rows, _ = read_entries(read_llava, file=arguments["file"], images=[*arguments["images"], str(tmp_path / "COCO")])
    assert rows[1]["images"] == [f"{tmp_path}/data/coco/train2017/000000033471.jpg"]


def test_texts_alone_need_no_folder(tmp_path):
    file = write(tmp_path, [RELEASED[6], RELEASED[0]])["file"]
    rows, problems = read_entries(read_llava, file=file)
    assert len(rows) == 1 and "no folder was given to look for it" in problems[0]


def test_wrong_files_and_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="chat.json must hold a list, not a dict"):
        list(read_llava(**write(tmp_path, {"a": 1})))
    with pytest.raises(ValueError, match="none.json is not valid JSON"):
        list(read_llava(tmp_path / "none.json"))
    with pytest.raises(ValueError, match="the folder .*nowhere, to look for pictures in, does not exist"):
        list(read_llava(tmp_path / "chat.json", tmp_path / "nowhere"))
