"""Which rows a Setokim answers while it is trained, and what becomes of its answers."""

import numpy as np
import pytest
import torch

from tests.setokim_testing import pictures, tiny_setokim
from training.data.schema import exchange, image, mask, row, text
from training.samples_setokim import GREEDY, LONGEST_ANSWER, SampleRow, answer_sample_rows, choose_sample_rows


def caption(said: str) -> dict:
    messages = exchange([image(), text("Describe the picture.")], [text(said)])
    return row("caption", images=pictures(1), messages=messages)


def edit() -> dict:
    messages = exchange([image(), text("Add a dog.")], [image()])
    return row("edit", images=pictures(3)[1:], messages=messages)


def outlines() -> dict:
    """Two masks, one after the other."""
    masks = [picture.convert("L").point(lambda value, level=level: 255 * (value > level)) for level in (90, 160)
             for picture in pictures(1)]  # fmt: skip
    turns = [turn for name in ("dog", "cat") for turn in exchange([text(f"Outline the {name}.")], [mask()])]
    turns[0]["content"].insert(0, image())
    return row("outlines", images=pictures(1), messages=turns, masks=masks)


@pytest.fixture
def model(processor):
    return tiny_setokim(processor)


def test_rows_are_of_different_kinds_and_sets():
    sets = {
        "caption": [caption(f"caption {i}") for i in range(3)],
        "question": [caption(f"question {i}") for i in range(3)],
        "edit": [edit()],
        "outlines": [outlines(), outlines()],
    }
    names = ["caption", "edit", "outlines", "question", "outlines", "caption", "question", "caption", "question"]
    for count in (0, 1, 4, 6, 99):
        assert [sample.name for sample in choose_sample_rows(sets, count)] == names[:count]
    texts = [sample.expected for sample in choose_sample_rows(sets, 99) if sample.kind == "text"]
    assert texts == ["caption 0", "question 0", "caption 1", "question 1", "caption 2", "question 2"]


def test_the_first_answer_of_a_row_is_asked_for():
    (source, target), first = pictures(3)[1:], outlines()["masks"][0]
    painted, outlined = SampleRow("edit", edit()), SampleRow("outlines", outlines())
    assert (painted.kind, painted.request, painted.pictures) == ("image", "Add a dog.", [source])
    assert painted.expected == target
    assert (outlined.kind, outlined.request, outlined.pictures) == ("mask", "Outline the dog.", pictures(1))
    np.testing.assert_array_equal(outlined.expected, np.asarray(first) == 255)
    drawn = row("text_to_image", images=[target], messages=exchange([text("Draw: a dog.")], [image()]))
    drawn = SampleRow("text_to_image", drawn)
    assert (drawn.pictures, drawn.expected) == ([], target)


def test_texts_stand_beside_those_expected(model, processor):
    samples = [SampleRow("caption", caption("a dog | a cat\non grass")), SampleRow("again", caption("a dog"))]
    sheet, table = answer_sample_rows(model, processor, samples)
    assert sheet is None
    said = model.ask(processor, pictures(1)[0], "Describe the picture.", max_new_tokens=LONGEST_ANSWER, **GREEDY)
    head, rule, first, second = table.splitlines()
    assert (head, rule) == ("|  | request | answer | expected |", "| --- | --- | --- | --- |")
    assert first.startswith("| caption | Describe the picture. | ") and first.endswith(" | a dog \\| a cat on grass |")
    said = " ".join(said.split()).replace("|", "\\|")
    assert second == f"| again | Describe the picture. | {said} | a dog |"


def test_pictures_and_masks_stand_beside_those_expected(model, processor):
    """A line of two pictures, one of three, and one of three that are drawn larger, below one another."""
    state = torch.get_rng_state()
    drawn = row("text_to_image", images=pictures(1), messages=exchange([text("Draw: a dog.")], [image()]))
    samples = [SampleRow("drawn", drawn), SampleRow("edit", edit()), SampleRow("outlines", outlines())]
    sheet, table = answer_sample_rows(model, processor, samples)
    assert table is None
    alone = [answer_sample_rows(model, processor, [sample])[0] for sample in samples]
    two, three, larger = (line.width for line in alone)
    assert 256 * 2 < two < 256 * 3 < three < larger == sheet.width
    top = 0
    for line in alone:
        np.testing.assert_array_equal(np.asarray(sheet)[top : top + line.height, : line.width], np.asarray(line))
        top += line.height
    assert top == sheet.height
    assert torch.equal(torch.get_rng_state(), state)
