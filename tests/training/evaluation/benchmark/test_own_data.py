"""Rows of one's own, answered by an oracle whose answers are known, and by a Setokim."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.setokim_testing import pictures, tiny_setok, tiny_setokim
from training.data import load_coco, load_image_folder_json
from training.data.schema import exchange, image, mask, row, text
from training.evaluation.benchmark.answering import Answer, Answerer, Setokim
from training.evaluation.benchmark.own_data import measure_rows, table_rows
from training.evaluation.report import format_rows

RUN = {"data": "mine", "model": "a-model"}
DOG = np.zeros((24, 24), bool)
DOG[4:12, 4:12] = True
CONTENTS = {"caption": "A red dog on the grass.", "two": "2", "hello": "Hello to you, too.", "again": "See you."}


def rows_of_all_kinds() -> list[dict]:
    def asked(task, said, answer, count=1, **more):
        return row(task, images=["a.png"] * count, messages=exchange([image()] * count + [text(said)], answer), **more)

    told = "Describe the picture."
    conversation = exchange([image(), text("Hello?")], [text(CONTENTS["hello"])])
    conversation += exchange([text("And?")], [text(CONTENTS["again"])])
    outlines = exchange([image(), text("Outline the dog.")], [mask()]) + exchange([text("Again.")], [mask()])
    edit = exchange([image(), text("Make it blue.")], [image()])
    talkative = exchange([text("Draw: a dog.")], [text("Here:"), image()])
    return [
        asked("caption", told, [text(CONTENTS["caption"])]),
        asked("caption", told, [text("A dog.")]),
        asked("question", "How many?", [text("2")], question_type="counting"),
        asked("question", "How many?", [text("2")], question_type="counting"),
        asked("question", "How many?", [text("3")], question_type="counting"),
        asked("two_images", "Which?", [text("both")], count=2),
        row("conversation", images=["a.png"], messages=conversation),
        row("text_to_image", images=["b.png"], messages=exchange([text("Draw: a dog.")], [image()]), concepts=["dog"]),
        row("edit", images=["a.png", "b.png"], messages=edit),
        row("outlines", images=["a.png"], messages=outlines, masks=["dog.png"] * 2, concepts=["dog"] * 2),
        row("text_to_image", images=["b.png"], messages=talkative),
    ]


@pytest.fixture
def rows(tmp_path):
    (tmp_path / "images").mkdir()
    for name, picture in zip("ab", pictures(2), strict=True):
        picture.save(tmp_path / "images" / f"{name}.png")
    Image.fromarray(DOG.astype(np.uint8) * 255).save(tmp_path / "images" / "dog.png")
    (tmp_path / "data.json").write_text(json.dumps(rows_of_all_kinds()))
    return load_image_folder_json(tmp_path, needs="answer")


class Oracle(Answerer):
    """Gives the answers that it has, by the key of the example, and remembers what it was asked."""

    kind = "an oracle"
    gives = frozenset({"text", "image", "mask"})

    def __init__(self, **changed):
        a, b = pictures(2)
        self.answers = {
            "0-1": CONTENTS["caption"], "2-1": "Two.", "5-1": " BOTH. ", "6-1": CONTENTS["hello"],
            "6-3": "See me.", "7-1": b, "8-1": a, "9-1": DOG,
        } | changed  # fmt: skip
        self.asked = {}

    def answer(self, kind, examples, requests, options):
        for example, request in zip(examples, requests, strict=True):
            self.asked[example.key] = (kind, request, example)
        return [Answer(self.answers[example.key], 3) for example in examples]


def measured(answerer, rows, folder, **options):
    return measure_rows(answerer, rows, folder / "results.json", run=RUN, **options)


def test_each_kind_is_measured_by_its_own_measures(rows, tmp_path):
    results = measured(Oracle(), rows, tmp_path)
    counts = {key.removesuffix("_num_examples"): n for key, n in results.items() if key.endswith("_num_examples")}
    assert counts == {
        "caption": 1, "question": 2, "conversation": 2, "text_to_image": 1, "edit": 1, "referring": 1
    }  # fmt: skip
    assert (results["num_rows"], results["num_left_out"]) == (11, 2)  # a second mask; a picture after words
    assert results["caption_rouge_l"] == pytest.approx(1)  # of the two captions it is like one
    # "two" is not word for word the most frequent answer, 2, but is to VQA, for which two of three people said it
    assert results["question_accuracy"] == 1 / 2 and results["question_counting_accuracy"] == 0
    assert results["question_two_images_accuracy"] == 1
    assert results["question_vqa_accuracy"] == pytest.approx(((1 + 1 / 2 + 1 / 2) / 3 + 1) / 2)
    assert results["conversation_accuracy"] == 1 / 2 and results["conversation_rouge_l"] == pytest.approx(
        (1 + 1 / 2) / 2
    )
    assert results["text_to_image_l1"] == 0 and "text_to_image_unchanged_l1" not in results
    assert results["edit_l1"] == results["edit_unchanged_l1"] > 0  # it gave the picture back as it was
    assert results["referring_ciou"] == results["referring_giou"] == 1
    assert results["visual_tokens_per_picture"] == pytest.approx(3 * 7 / 8)  # eight pictures in seven examples


def test_a_model_is_asked_word_for_word_after_the_true_turns_before(rows, tmp_path):
    oracle = Oracle()
    measured(oracle, rows, tmp_path)
    a, b = (picture.tobytes() for picture in pictures(2))
    kind, _, example = oracle.asked["6-3"]
    assert kind == "text" and [turn["role"] for turn in example.turns] == ["user", "assistant", "user"]
    said = [part.get("text", part["type"]) for turn in example.turns for part in turn["content"]]
    assert said == ["image", "Hello?", CONTENTS["hello"], "And?"]
    assert [picture.tobytes() for picture in example.pictures()] == [a]
    assert oracle.asked["9-1"][:2] == ("mask", "Outline the dog.")
    kind, request, example = oracle.asked["8-1"]
    assert (kind, request) == ("image", "Make it blue.") and [p.tobytes() for p in example.pictures()] == [a]
    assert oracle.asked["7-1"][:2] == ("image", "Draw: a dog.") and oracle.asked["7-1"][2].images == ()
    assert len(oracle.asked["5-1"][2].pictures()) == 2


def test_concepts_are_looked_for_in_what_is_painted(rows, tmp_path, processor):
    setok = tiny_setok()
    setok.set_concepts(["cat", "dog", "owl", "car"], torch.nn.functional.normalize(torch.randn(4, 6), dim=-1))
    results = measured(Oracle(), rows, tmp_path, setok=(setok, processor.image_processor))
    assert results["text_to_image_found"] == results["text_to_image_true_found"]  # the very picture
    assert results["text_to_image_found_chance"] == 1 / 4
    setok.set_concepts(["cat"], torch.nn.functional.normalize(torch.randn(1, 6), dim=-1))
    with pytest.raises(ValueError, match=r"concept bank lacks \['dog'\]"):
        measured(Oracle(), rows, tmp_path / "more", setok=(setok, processor.image_processor))


def test_only_the_first_rows(rows, tmp_path):
    results = measured(Oracle(), rows, tmp_path, limit=3)
    assert results["num_rows"] == 3 and results["question_num_examples"] == 1 and "edit_l1" not in results


def test_rows_without_anything_to_measure_are_refused(rows, tmp_path):
    with pytest.raises(ValueError, match="None of the 1 rows has an answer that is measured: 1 turns are left out"):
        measured(Oracle(), rows.select([10]), tmp_path)


def test_answers_of_other_rows_are_not_taken_for_these(rows, tmp_path):
    measured(Oracle(), rows, tmp_path)
    assert measured(Oracle(**{"0-1": "No."}), rows, tmp_path)["caption_rouge_l"] == pytest.approx(1)  # it went on
    with pytest.raises(ValueError, match="another run, with data"):
        measure_rows(Oracle(), rows, tmp_path / "results.json", run=RUN | {"data": "other"})


def test_the_table_shows_every_kind(rows, tmp_path):
    results = measured(Oracle(), rows, tmp_path)
    table = format_rows(table_rows(results), results)
    for line in ("turns left out 2", "– counting", "– two images", "edit: L1 to the true result", "referring: cIoU"):
        assert line in table
    assert "CLIP" not in table and "– vqa" not in table


def test_masks_of_coco(tmp_path):
    picture = Image.new("RGB", (24, 24))
    picture.save(tmp_path / "a.png")
    square = [[4, 4, 12, 4, 12, 12, 4, 12]]
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 24, "height": 24}],
        "categories": [{"id": 5, "name": "dog"}],
        "annotations": [{"id": 7, "image_id": 1, "category_id": 5, "segmentation": square}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(coco))
    oracle = Oracle(**{"0-1": DOG})
    results = measured(oracle, load_coco(tmp_path / "instances.json", tmp_path), tmp_path)
    assert results["referring_ciou"] == 1 and oracle.asked["0-1"][1] == "Segment the dog."


def test_a_setokim_says_the_same_in_any_batch(rows, tmp_path, processor):
    setokim = Setokim(tiny_setokim(processor), processor)
    for size in (1, 4):
        (tmp_path / str(size)).mkdir()
        measured(setokim, rows, tmp_path / str(size), batch_size=size)
    for kind in ("caption", "question", "conversation"):
        one, four = ((tmp_path / size / f"results.{kind}.predictions.jsonl").read_text() for size in "14")
        assert one == four and len(one.splitlines()) > 1
