"""Rows of every kind that others write, in the one schema."""

import pytest
from PIL import Image

from training.data import schema
from training.data.entries.rows import to_row

RED = Image.new("RGB", (8, 8), "red")
BLUE = Image.new("RGB", (8, 8), "blue")


def asks(request: list[dict], answer: dict) -> list[dict]:
    return schema.exchange(request, [answer])


DRAW_DOG = asks([schema.text("Draw: dog.")], schema.image())
KINDS = [
    (
        {"image": RED, "caption": "All red."},
        None,
        ("caption", [RED], asks([schema.image(), schema.text("Describe the picture.")], schema.text("All red.")), []),
    ),
    (
        {"image": RED, "caption": " All red. "},
        "text_to_image",
        ("text_to_image", [RED], asks([schema.text("Draw: All red.")], schema.image()), []),
    ),
    ({"image": RED, "label": "dog"}, "text_to_image", ("text_to_image", [RED], DRAW_DOG, ["dog"])),
    ({"image": RED, "label": "dog", "task": "text_to_image"}, None, ("text_to_image", [RED], DRAW_DOG, ["dog"])),
    (
        {"image": RED, "labels": ["dog", "sun glasses", "dog"]},
        "text_to_image",
        (
            "text_to_image",
            [RED],
            asks([schema.text("Draw: dog, sun glasses.")], schema.image()),
            ["dog", "sun glasses", "dog"],
        ),
    ),
    ({"image": RED, "label": "dog"}, None, ("concepts", [RED], [], ["dog"])),
    ({"image": RED, "label": "dog", "caption": "A dog."}, "concepts", ("concepts", [RED], [], ["dog"])),
    ({"image": RED, "label": "dog", "caption": "A dog."}, "reconstruction", ("reconstruction", [RED], [], [])),
    ({"image": RED, "label": 3}, None, ("reconstruction", [RED], [], [])),
    (
        {"image": RED, "instruction": "Make it blue.", "edited_image": BLUE, "label": "red"},
        "edit",
        ("edit", [RED, BLUE], asks([schema.image(), schema.text("Make it blue.")], schema.image()), []),
    ),
    (
        {"instruction": "Add.", "input": "1, 2", "output": "3", "text": "Below is an instruction ..."},
        None,
        ("conversation", [], asks([schema.text("Add.\n1, 2")], schema.text("3")), []),
    ),
    (
        {"image": RED, "instruction": "Is it red?", "input": "", "output": "Yes."},
        None,
        ("conversation", [RED], asks([schema.image(), schema.text("Is it red?")], schema.text("Yes.")), []),
    ),
    (
        {"text": "A page, with <image> in it.\n", "label": 1, "meta": {"source": "web"}},
        None,
        (
            "text_only",
            [],
            [{"role": "assistant", "content": [schema.text("A page, with <image> in it.\n")]}],
            [],
        ),
    ),
    ({"image": RED, "text": "No caption."}, None, ("reconstruction", [RED], [], [])),
]


@pytest.mark.parametrize(("raw", "task", "expected"), KINDS)
def test_each_kind_of_row(raw, task, expected):
    kind, images, messages, concepts = expected
    assert to_row(raw, task=task) == schema.row(kind, images=images, messages=messages, concepts=concepts)


def test_turns_stay_what_they_are_whatever_they_are_called():
    turns = [{"from": "human", "value": "Hi <image>"}, {"from": "gpt", "value": "Red."}]
    row = to_row({"image": RED, "conversations": turns}, task="caption")
    assert row["task"] == "caption"
    assert row["messages"] == asks([schema.text("Hi"), schema.image()], schema.text("Red."))


@pytest.mark.parametrize(
    ("raw", "task", "problem"),
    [
        ({"image": RED, "label": "dog"}, "drawing", "task must be one of caption, text_to_image, .*, not 'drawing'"),
        ({"image": RED, "label": "dog"}, "caption", "the caption must be text, not None"),
        ({"image": RED}, "text_to_image", "the caption must be text, not None"),
        ({"image": RED, "caption": " ."}, "text_to_image", "what to draw must be text"),
        ({"image": RED}, "concepts", "no names of what is in the picture"),
        ({"image": RED, "label": 3}, "concepts", "no names of what is in the picture"),
        ({"image": RED, "label": ["dog", 3]}, None, "a name in concepts must be text, not 3"),
        ({"image": RED, "instruction": "Add."}, "edit", "1 pictures but 2 places"),
        ({"image": RED, "instruction": "Add.", "edited_image": None}, None, "1 pictures but 2 places"),
        ({"instruction": "Add.", "edited_image": BLUE}, None, "1 pictures but 2 places"),
        ({"image": RED, "instruction": None, "edited_image": BLUE}, None, "the instruction must be text, not None"),
        ({"instruction": "Add.", "input": "1", "output": ""}, None, "the output must be text, not ''"),
        ({"instruction": "Add.", "input": 1, "output": "1"}, None, "the input must be text, not 1"),
        ({"text": None}, None, "none of the keys"),
        ({"text": "  "}, None, "the text must be text"),
        ({"text": "a \ud800"}, None, "the text holds half a character"),
        ({"image": RED, "segments": 5}, None, "segments must be a list"),
    ],
)
def test_what_is_wrong_with_a_row(raw, task, problem):
    with pytest.raises(ValueError, match=problem):
        to_row(raw, task=task)


@pytest.mark.parametrize("picture", ["no/such.png", {"bytes": b"none", "path": None}, {"bytes": None, "path": "a.png"}])
def test_without_a_look_pictures_are_what_a_table_can_hold(picture):
    assert to_row({"image": picture}, look=False)["images"] == [picture]


def test_bytes_alone_are_a_picture():
    assert to_row({"image": b"none"}, look=False)["images"] == [{"bytes": b"none", "path": None}]
    with pytest.raises(ValueError, match="picture  cannot be read"):
        to_row({"image": b"none"})


@pytest.mark.parametrize(
    "picture",
    [RED, 5, "", "\ud800.png", {}, {"bytes": "text"}, {"bytes": b"", "path": 5}, {"path": None}, {"path": "a", "x": 1}],
)
def test_without_a_look_other_pictures_are_refused(picture):
    with pytest.raises(ValueError, match="picture"):
        to_row({"image": picture}, look=False)
