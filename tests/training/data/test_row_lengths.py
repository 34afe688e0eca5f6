"""Rows are as long as the language model sees them; texts are cut to pieces, conversations at turns."""

import pytest
from PIL import Image

from processing import SetokimProcessor
from tests.setokim_testing import tiny_processor
from training.data import schema
from training.data.row_lengths import RowLengths, conversation_tokens

IMAGE_TOKENS = 7


@pytest.fixture(scope="module")
def processor() -> SetokimProcessor:
    return tiny_processor()


def talk(*turns: str, image: bool = False) -> list[dict]:
    """Questions and answers in turn, the first with an image."""
    messages = []
    for place, (question, answer) in enumerate(zip(turns[::2], turns[1::2], strict=True)):
        asked = [schema.image()] if image and place == 0 else []
        messages += schema.exchange([*asked, schema.text(question)], [schema.text(answer)])
    return messages


def document(text: str) -> dict:
    return schema.row("text_only", messages=[{"role": "assistant", "content": [schema.text(text)]}])


def test_images_and_masks_count_as_their_tokens(processor):
    picture = schema.exchange([schema.image(), schema.text("Segment it.")], [schema.mask(), schema.mask()])
    conversations = [talk("Hi", "Hello"), talk("What?", "A dog.", image=True), picture]
    ids = [ids for ids, _ in conversation_tokens(processor, conversations)]
    lengths = RowLengths(processor, image_tokens=IMAGE_TOKENS).measure(conversations)
    assert lengths == [len(row) + number * (IMAGE_TOKENS - 1) for row, number in zip(ids, (0, 1, 3), strict=True)]


@pytest.mark.parametrize("text", ["a", "word " * 9, "Ünïcödé — 龍 🐉 " * 5, "<image> [Img] <|im_end|>" * 3])
def test_what_may_be_long_is_never_told_to_be_short(processor, text):
    messages = talk(text, text, text, text, image=True)
    length = RowLengths(processor, image_tokens=IMAGE_TOKENS).measure([messages])[0]
    assert RowLengths(processor, length - 1, IMAGE_TOKENS).may_be_long(messages)
    assert RowLengths(processor, length - 1, IMAGE_TOKENS).too_long(messages) == length
    assert RowLengths(processor, length, IMAGE_TOKENS).too_long(messages) is None
    assert not RowLengths(processor, 10_000, IMAGE_TOKENS).may_be_long(messages)
    assert RowLengths(processor, None).too_long(messages) is None


@pytest.mark.parametrize("limit", [18, 30, 101])
@pytest.mark.parametrize("text", ["The owl sits\n on a red  tree. " * 40, "x" * 700, "龍 " * 90 + "end", "short"])
def test_texts_are_cut_to_pieces_that_are_the_whole(processor, text, limit):
    lengths = RowLengths(processor, limit, long_rows="cut")
    rows, done = lengths.fit(document(text))
    pieces = [row["messages"][0]["content"][0]["text"] for row in rows]
    assert "".join(pieces).split() == text.split() or "".join(pieces) == text
    assert "".join(pieces) == text or text.endswith(" ")
    measured = lengths.measure([row["messages"] for row in rows])
    assert max(measured) <= limit and all(row["task"] == "text_only" for row in rows)
    assert done == (f"cut to {len(pieces)} pieces" if len(pieces) > 1 else None)
    if len(pieces) > 1 and " " in text:
        assert sum(measured) / len(measured) > limit / 3  # pieces are not crumbs
        assert limit < 30 or all(piece[-1].isspace() for piece in pieces[:-1])


def test_conversations_are_cut_at_turns(processor):
    picture = Image.new("RGB", (8, 8))
    messages = talk("What is it?", "A dog.", "Sure?", "Yes.", "Tell me more.", "Much " * 50, image=True)
    row = schema.row("conversation", images=[picture], messages=messages, concepts=["dog"])
    measure = RowLengths(processor, image_tokens=IMAGE_TOKENS).measure
    first, second = (measure([messages[:turns]])[0] for turns in (2, 4))
    for limit, turns in ((second, 4), (second - 1, 2), (first, 2)):
        rows, done = RowLengths(processor, limit, IMAGE_TOKENS, "cut").fit(row)
        assert rows == [{**row, "messages": messages[:turns]}] and done == f"cut to {turns} of 6 turns"
    for limit, long_rows in ((first - 1, "cut"), (second, "skip")):
        rows, done = RowLengths(processor, limit, IMAGE_TOKENS, long_rows).fit(row)
        assert rows == [] and "left out for its length of" in done
    with pytest.raises(ValueError, match=f"'conversation' has .* max_length is {second} .* counted as 7"):
        RowLengths(processor, second, IMAGE_TOKENS).fit(row)
    assert RowLengths(processor, 10_000, IMAGE_TOKENS).fit(row) == ([row], None)


def test_images_and_masks_go_with_their_turns(processor):
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    masks = [Image.new("L", (8, 8), value) for value in (0, 255)]
    messages = schema.exchange([schema.image(), schema.text("Segment it.")], [schema.mask()])
    messages += schema.exchange([schema.text("And the rest, please. " * 20)], [schema.mask()])
    row = schema.row("outlines", images=[first], messages=messages, masks=masks)
    limit = RowLengths(processor).measure([messages])[0] - 1
    (cut,), _ = RowLengths(processor, limit, long_rows="cut").fit(row)
    assert cut["images"] == [first] and cut["masks"] == masks[:1]
    edit = talk("Draw a dog.", "There.", "Make it blue. " * 20, "Here.")
    edit[1]["content"].append(schema.image())
    edit[3]["content"].append(schema.image())
    row, limit = schema.row("edit", images=[first, second], messages=edit), RowLengths(processor).measure([edit])[0]
    (cut,), _ = RowLengths(processor, limit - 1, long_rows="cut").fit(row)
    assert cut["images"] == [first]


def test_an_unknown_word_is_refused(processor):
    with pytest.raises(ValueError, match="long_rows must be one of refuse, skip, cut, not 'drop'"):
        RowLengths(processor, long_rows="drop")
