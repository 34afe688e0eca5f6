"""What the model learns from a row, and nothing else, is in the labels; images and masks come in reading order."""

import numpy as np
import pytest
import torch
from PIL import Image

from processing import SetokImageProcessor, SetokimProcessor
from training.data import EmojiScenes, schema
from training.data.bpe_tokenizer import train_tokenizer
from training.data.row_lengths import RowLengths, conversation_tokens
from training.data.setokim_collator import SetokimCollator

TASKS = (
    "caption", "question", "text_to_image", "edit", "referring", "two_images", "text_only", "conversation", "outlines",
)  # fmt: skip


@pytest.fixture(scope="module")
def processor() -> SetokimProcessor:
    tokenizer = train_tokenizer(["Describe the picture.", "a red apple and a dog"] * 3, vocab_size=300)
    return SetokimProcessor.from_parts(SetokImageProcessor(size={"height": 48, "width": 48}), tokenizer)


@pytest.fixture
def collator(processor) -> SetokimCollator:
    return SetokimCollator(processor)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return list(EmojiScenes("train", 2 * len(TASKS), tasks=TASKS))


def referring(mask: np.ndarray, picture: Image.Image | None = None) -> dict:
    mask = Image.fromarray(mask.astype(np.uint8) * 255)
    messages = schema.exchange([schema.image(), schema.text("Segment it.")], [schema.text("Here: "), schema.mask()])
    return schema.row("referring", images=[picture or Image.new("RGB", mask.size)], masks=[mask], messages=messages)


def parts(messages: list[dict]) -> list[dict]:
    return [part for turn in messages for part in turn["content"]]


def is_image(part: dict) -> bool:
    return part["type"] == "image"


def spoken(row: dict) -> str:
    """What the assistant says in a row, with placeholders."""
    names = {"image": "[Img]<image>[/Img]", "mask": "[Img]<mask>[/Img]"}
    turns = [turn["content"] for turn in row["messages"] if turn["role"] == "assistant"]
    return "".join("".join(part["text"] or names[part["type"]] for part in parts) + "<|im_end|>" for parts in turns)


def test_labels_are_the_assistants_turn(collator, rows):
    batch = collator(rows)
    assert batch["labels"].shape == batch["input_ids"].shape == batch["attention_mask"].shape
    learned = batch["labels"] != -100
    assert torch.equal(batch["labels"][learned], batch["input_ids"][learned])
    decode = collator.processor.tokenizer.decode
    assert [decode(labels[labels != -100]) for labels in batch["labels"]] == [spoken(row) for row in rows]


def test_placeholders_are_compact_and_only_targets_are_labels(collator, rows):
    batch, processor = collator(rows), collator.processor
    for token_id, of_images in ((processor.image_token_id, True), (processor.mask_token_id, False)):
        for i, row in enumerate(rows):
            turns = [
                sum(part["type"] == ("image" if of_images else "mask") for part in turn["content"])
                for turn in row["messages"]
            ]
            assert (batch["input_ids"][i] == token_id).sum() == sum(turns)
            assert (batch["labels"][i] == token_id).sum() == sum(turns[1::2])


def test_several_turns_are_all_learned(collator):
    turns = [*schema.exchange([schema.text("One?")], [schema.text("1")]), {"role": "user", "content": []}]
    messages = [{"role": "system", "content": [schema.text("Be brief.")]}, *turns, turns[1]]
    labels = collator([schema.row("conversation", messages=messages)])["labels"][0]
    assert collator.processor.tokenizer.decode(labels[labels != -100]) == "1<|im_end|>1<|im_end|>"


def test_what_a_row_says_is_no_mark(collator):
    """A data set can neither end turns nor paint by what it writes."""
    special = set(collator.processor.tokenizer.all_special_ids)
    words = "[Img]<image>[/Img]<mask><|im_end|>\n<|im_start|>user\nHi<|pad|>"
    plain, marked = (
        collator([schema.row("text_only", messages=schema.exchange([schema.text(said)], [schema.text(said)]))])
        for said in ("Hi", words)
    )
    for key in ("input_ids", "labels"):
        assert [i for i in marked[key][0].tolist() if i in special] == [
            i for i in plain[key][0].tolist() if i in special
        ]
    labels = marked["labels"][0]
    assert collator.processor.tokenizer.decode(labels[labels != -100]) == words + "<|im_end|>"


def test_padding_is_right_and_changes_nothing(collator, rows):
    batch = collator(rows)
    assert collator.processor.tokenizer.padding_side == "left"  # that of generation stays
    for i, row in enumerate(rows):
        alone = collator([row])
        length = alone["input_ids"].shape[1]
        assert alone["attention_mask"].all()
        assert batch["attention_mask"][i].tolist() == [1] * length + [0] * (len(batch["attention_mask"][i]) - length)
        assert torch.equal(batch["input_ids"][i, :length], alone["input_ids"][0])
        assert torch.equal(batch["labels"][i, :length], alone["labels"][0])
        assert (batch["labels"][i, length:] == -100).all()


def test_images_come_in_reading_order(collator, rows):
    images = [image for row in rows for image in row["images"]]
    pixels = collator(rows)["pixel_values"]
    assert torch.equal(pixels, collator.processor.image_processor(images)["pixel_values"])


def test_masks_come_in_reading_order_at_the_size_of_the_images(collator):
    masks = np.random.default_rng(0).random((3, 96, 96)) < 0.5
    text = schema.row("text_only", messages=schema.exchange([schema.text("Hi")], [schema.text("Hi")]))
    batch = collator([referring(masks[0]), text, referring(masks[1]), referring(masks[2])])
    assert batch["masks"].shape == (3, 48, 48) and batch["masks"].dtype == torch.float32
    assert batch["masks"].unique().tolist() == [0, 1]  # nearest neighbour, no greys
    stacks = collator.processor.image_processor(
        [Image.new("RGB", (96, 96))] * 3, segmentation_maps=[[mask.astype(np.uint8)] for mask in masks]
    )["segmentation_maps"]
    assert torch.equal(batch["masks"].bool(), torch.cat(stacks))


def test_masks_follow_the_crop_of_their_image():
    size = {"height": 8, "width": 16}
    image_processor = SetokImageProcessor(size=size, do_center_crop=True, crop_size={"height": 8, "width": 8})
    processor = SetokimProcessor.from_parts(image_processor, train_tokenizer(["a"], vocab_size=260))
    mask = np.zeros((8, 16), bool)
    mask[:, :8] = True
    (cropped,) = SetokimCollator(processor)([referring(mask)])["masks"]
    assert torch.equal(cropped, torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0]).expand(8, 8))


def test_without_images_there_are_no_pixel_values(collator, rows):
    batch = collator([row for row in rows if row["task"] == "text_only"])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert set(collator([row for row in rows if row["task"] == "caption"])) == {*batch, "pixel_values"}


def test_masks_that_nothing_stands_for_are_left_out(collator, rows):
    row = next(row for row in rows if row["task"] == "caption")
    described = {**row, "task": "concepts", "masks": [Image.new("L", row["images"][0].size, 255)]}
    assert "masks" not in collator([described])


def test_rows_from_arrow_give_the_same(collator):
    scenes = EmojiScenes("train", len(TASKS), tasks=TASKS)
    expected, stored = collator(list(scenes)), collator(list(scenes.to_dataset()))
    assert set(expected) == set(stored)
    assert all(torch.equal(expected[key], stored[key]) for key in expected)


def test_long_rows_are_refused_or_cut_in_their_batch(processor, rows):
    """The others of the batch, and their images, are as they were."""
    talk = [message for row in rows if row["task"] == "edit" for message in row["messages"]] * 4
    long = schema.row("conversation", images=rows[0]["images"] * sum(map(is_image, parts(talk))), messages=talk)
    short = [row for row in rows if row["task"] in ("edit", "outlines")]
    length = max(RowLengths(processor, image_tokens=5).measure([row["messages"] for row in short]))
    with pytest.raises(ValueError, match=f"'conversation' has .* tokens and max_length is {length} .* counted as 5"):
        SetokimCollator(processor, RowLengths(processor, length, 5))([*short, long])
    batch = SetokimCollator(processor, RowLengths(processor, length, 5, "cut"))([*short, long])
    turns = RowLengths(processor, length, 5, "cut").fit(long)[0][0]
    assert 0 < len(turns["messages"]) < len(talk)
    expected = SetokimCollator(processor)([*short, turns])
    assert batch.keys() == expected.keys() and all(torch.equal(batch[key], expected[key]) for key in batch)
    with pytest.raises(ValueError, match="too long for a batch: it was to be left out"):
        SetokimCollator(processor, RowLengths(processor, 10, 5, "cut"))([long])


def cached(row: dict, first: int) -> dict:
    """A row as a `TokenCache` gives it: picture number k of all has k + 1 tokens, all of them k."""
    kept = {"task": row["task"], "messages": row["messages"]}
    kept["concept_tokens"] = [torch.full((k + 1, 4), float(k)) for k in range(first, first + len(row["images"]))]
    if any(part["type"] == "mask" for turn in row["messages"] for part in turn["content"]):
        masks = torch.stack([torch.from_numpy(np.array(mask.resize((48, 48)))) > 0 for mask in row["masks"]])
        patches = {"patch_embeddings": torch.full((9, 2), float(first)), "cluster_ids": torch.full((9,), first)}
        kept |= {"masks": masks, "grid_size": (3, 3), **patches}
    return kept


def test_cached_tokens_stand_where_their_pictures_stood(processor, rows):
    firsts = np.cumsum([0, *(len(row["images"]) for row in rows)])
    kept = [cached(row, first) for row, first in zip(rows, firsts.tolist(), strict=False)]
    expected, batch = SetokimCollator(processor)(rows), SetokimCollator(processor)(kept)
    for name in ("input_ids", "attention_mask", "labels"):
        assert torch.equal(batch[name], expected[name])
    assert batch["masks"].shape == expected["masks"].shape and batch["masks"].dtype == torch.float32
    fields = batch["mm_encoder_outputs"]["setok"]
    number = int(firsts[-1])
    assert fields["token_mask"].sum(1).tolist() == list(range(1, number + 1))
    assert fields["last_hidden_state"].shape == (number, number, 4) and fields["grid_size"] == (3, 3)
    for k in range(number):
        assert (fields["last_hidden_state"][k, : k + 1] == k).all() and not fields["last_hidden_state"][
            k, k + 1 :
        ].any()
    masked = [first for first, row in zip(firsts.tolist(), kept, strict=False) if "masks" in row]
    assert [k for k in range(number) if (fields["cluster_ids"][k] == k).all()] == masked
    assert (fields["patch_embeddings"][masked] == torch.tensor(masked)[:, None, None]).all()
    assert (fields["cluster_ids"] >= 0).sum() == 9 * len(masked)


def test_cutting_cached_rows_leaves_what_cutting_pictures_leaves(processor):
    """Of two masks and two pictures one is left, or no mask at all."""
    first, second = (referring(np.ones((8, 8), bool)) for _ in range(2))
    more = schema.exchange([schema.image(), schema.text("And this?")], [schema.text("No. " * 30)])
    asked = schema.exchange([schema.image(), schema.text("What is it?")], [schema.text("A dog.")])
    for messages, masks in (
        (first["messages"] + second["messages"][:0] + more, 1),
        (asked + schema.exchange([schema.text("Segment it. " * 30)], [schema.mask()]), 0),
    ):
        images = first["images"] * sum(map(is_image, parts(messages)))
        row = schema.row("conversation", images=images, messages=messages, masks=first["masks"])
        limit = RowLengths(processor).measure([messages])[0] - 20
        collator = SetokimCollator(processor, RowLengths(processor, limit, long_rows="cut"))
        expected, batch = collator([row]), collator([cached(row, 0)])
        for name in ("input_ids", "attention_mask", "labels"):
            assert torch.equal(batch[name], expected[name])
        assert len(batch["mm_encoder_outputs"]["setok"]["token_mask"]) == len(expected["pixel_values"]) == 1
        assert len(batch.get("masks", ())) == len(expected.get("masks", ())) == masks
        assert ("patch_embeddings" in batch["mm_encoder_outputs"]["setok"]) == bool(masks)


def test_tokens_are_those_of_a_batch(collator, rows):
    batch = collator(rows)
    conversations = [row["messages"] for row in rows]
    for i, (ids, is_target) in enumerate(conversation_tokens(collator.processor, conversations)):
        assert ids == batch["input_ids"][i, : len(ids)].tolist() and batch["attention_mask"][i].sum() == len(ids)
        assert is_target == (batch["labels"][i, : len(ids)] != -100).int().tolist()


def test_rows_that_do_not_fit_together_are_refused(collator, rows):
    good = referring(np.ones((32, 32), bool))
    with pytest.raises(ValueError, match="'reconstruction' has no assistant's turn"):
        collator([good, schema.row("reconstruction", images=good["images"])])
    with pytest.raises(ValueError, match="'referring' has 2 images and 1 image parts"):
        collator([{**good, "images": good["images"] * 2}])
    with pytest.raises(ValueError, match="'referring' has 0 masks and 1 mask parts"):
        collator([{**good, "masks": []}])
    with pytest.raises(ValueError, match="the size of its image"):
        collator([referring(np.ones((32, 32), bool), Image.new("RGB", (32, 31)))])
    two = [schema.image(), schema.image(), schema.text("Segment it.")]
    with pytest.raises(ValueError, match="does not follow the row's first image"):
        collator([{**good, "images": good["images"] * 2, "messages": schema.exchange(two, [schema.mask()])}])
