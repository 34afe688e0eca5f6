"""Scenes in the files of public benchmarks: asked the same as in the evaluation, with keys and types as released."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from training.data import EmojiScenes, SceneConfig, load_coco, load_coco_captions, load_refcoco
from training.data.emoji_scenes.language import caption, ordered_caption, sentence
from training.data.emoji_scenes.tasks import presence_question
from training.data.export_emoji_scenes import FORMATS, export, main
from training.evaluation.setokim_tasks import Context
from training.evaluation.setokim_tasks.language import answers, presence
from training.evaluation.setokim_tasks.segmentation import referring

CONFIG = SceneConfig(image_size=32, max_objects=4)
COUNT = 12
PICTURES = "images/mscoco/images/train2014"
SCENES = EmojiScenes("test", COUNT, CONFIG, seed=5)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Format -> the folder in which the scenes were written."""
    root = tmp_path_factory.mktemp("exports")
    return {name: export(name, root / name, COUNT, config=CONFIG, seed=5) for name in FORMATS}


class Asked(Exception):
    """What the evaluation asks of a model."""


class Recorder:
    """Stands in for a Setokim."""

    def encode_images(self, processor, images):
        return None

    def ask(self, processor, images, requests):
        raise Asked(images, requests)

    def generate_visual_tokens(self, processor, images, requests, **options):
        raise Asked(images, requests)

    @property
    def device(self):
        return "cpu"


def asked_in_the_evaluation(observe, task: str) -> list[tuple[bytes, str]]:
    """(pixels, request) of each example."""
    context = Context(Recorder(), None, None, SCENES, {})
    with pytest.raises(Asked) as found:
        observe(context, context.examples(task, range(COUNT)))
    pictures, requests = found.value.args
    pictures = [picture[0] if isinstance(picture, list) else picture for picture in pictures]
    return [(picture.tobytes(), request) for picture, request in zip(pictures, requests, strict=True)]


def pixels(path) -> bytes:
    with Image.open(path) as picture:
        return picture.convert("RGB").tobytes()


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def types_of(record: dict) -> dict:
    return {key: type(value) for key, value in record.items()}


def test_questions_of_vqav2_are_those_of_the_evaluation(written):
    folder = written["vqav2"]
    asked = [
        (pixels(folder / "val2014" / f"COCO_val2014_{question['image_id']:012d}.jpg"), question["question"])
        for question in read(folder / "v2_OpenEnded_mscoco_val2014_questions.json")["questions"]
    ]
    assert asked == asked_in_the_evaluation(answers, "question")


def test_annotations_of_vqav2_have_ten_true_answers_and_the_released_keys(written):
    folder = written["vqav2"]
    questions = read(folder / "v2_OpenEnded_mscoco_val2014_questions.json")
    assert questions["task_type"] == "Open-Ended" and questions["data_subtype"] == "val2014"
    content = read(folder / "v2_mscoco_val2014_annotations.json")
    assert set(content) == {"info", "license", "data_type", "data_subtype", "annotations"}
    assert set(questions) == {*content, "task_type", "questions"} - {"annotations"}
    rows = replace(SCENES, tasks=("question",))
    for row, question, annotation in zip(rows, questions["questions"], content["annotations"], strict=True):
        assert types_of(question) == {"image_id": int, "question_id": int, "question": str}
        assert types_of(annotation) == {
            "image_id": int, "question_id": int, "question_type": str, "answer_type": str,
            "multiple_choice_answer": str, "answers": list,
        }  # fmt: skip
        assert annotation["question_id"] == question["question_id"] and annotation["image_id"] == question["image_id"]
        truth = row["messages"][1]["content"][0]["text"]
        assert annotation["multiple_choice_answer"] == truth
        assert annotation["question_type"] == row["question_type"]
        assert annotation["answers"] == [
            {"answer": truth, "answer_confidence": "yes", "answer_id": number} for number in range(1, 11)
        ]
        kind = {"counting": "number", "yes_no": "yes/no"}.get(row["question_type"], "other")
        assert annotation["answer_type"] == kind
    assert len({question["question_id"] for question in questions["questions"]}) == COUNT


def test_captions_are_read_back_with_their_pictures(written):
    folder = written["coco-captions"]
    file = folder / "annotations" / "captions_val2014.json"
    assert types_of(read(file)["annotations"][0]) == {"image_id": int, "id": int, "caption": str}
    assert {"id", "file_name", "width", "height"} <= set(read(file)["images"][0])
    rows = list(load_coco_captions(file, folder / "val2014"))
    assert len(rows) == 2 * COUNT
    for index in range(COUNT):
        scene = SCENES.scene(index)
        for row, true in zip(rows[2 * index : 2 * index + 2], (caption(scene), ordered_caption(scene)), strict=True):
            assert np.array_equal(np.asarray(row["images"][0]), scene.image)
            assert row["messages"][1]["content"][0]["text"] == sentence(true)


def pope_lines(folder, kind: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"coco_pope_{kind}.json").read_text("utf-8").splitlines()]


def test_random_questions_of_pope_are_those_of_the_evaluation(written):
    lines = pope_lines(written["pope"], "random")
    asked = [(pixels(written["pope"] / "val2014" / line["image"]), line["text"]) for line in lines]
    assert asked == asked_in_the_evaluation(presence, "concepts")
    assert [line["label"] for line in lines] == ["yes", "no"] * COUNT


def test_lines_of_pope_have_the_released_keys_and_true_labels(written):
    for kind in ("random", "popular", "adversarial"):
        lines = pope_lines(written["pope"], kind)
        assert [line["question_id"] for line in lines] == list(range(1, 2 * COUNT + 1))
        for line in lines:
            assert types_of(line) == {"question_id": int, "image": str, "text": str, "label": str}
            scene = SCENES.scene(int(line["image"][-16:-4]) - 1)
            assert (line["text"] in map(presence_question, scene.names)) == (line["label"] == "yes")


def test_absent_objects_of_pope_are_the_frequent_ones_and_the_neighbours(written):
    names = [set(SCENES.scene(index).names) for index in range(COUNT)]
    everything = sorted(set().union(*names))
    for kind, index in [(kind, index) for kind in ("popular", "adversarial") for index in range(COUNT)]:
        asked = pope_lines(written["pope"], kind)[2 * index + 1]["text"]
        scores = {
            presence_question(name): sum(
                1 if kind == "popular" else len(other & names[index]) for other in names if name in other
            )
            for name in everything
            if name not in names[index]
        }
        assert scores.get(asked, 0) == max(scores.values())


def test_expressions_of_refcoco_are_those_of_the_evaluation(written):
    folder = written["refcoco"]
    files = folder / "refcoco/refs(unc).json", folder / "refcoco/instances.json", folder / PICTURES
    found = load_refcoco(*files, split="val")
    expected = asked_in_the_evaluation(referring, "referring")
    assert len(found) == COUNT
    for row, truth, (picture, request) in zip(found, replace(SCENES, tasks=("referring",)), expected, strict=True):
        assert row["images"][0].convert("RGB").tobytes() == picture
        assert row["messages"][0]["content"][-1]["text"] == request
        assert np.array_equal(np.asarray(row["masks"][0]), np.asarray(truth["masks"][0]))


def test_files_of_refcoco_have_the_released_keys_and_lead_to_each_other(written):
    folder = written["refcoco"]
    instances, refs = read(folder / "refcoco/instances.json"), read(folder / "refcoco/refs(unc).json")
    assert set(instances) == {"info", "licenses", "images", "categories", "annotations"}
    objects = {record["id"]: record for record in instances["annotations"]}
    assert len(objects) == len(instances["annotations"])
    categories = {record["id"]: record["name"] for record in instances["categories"]}
    for record in objects.values():
        assert types_of(record) == {
            "id": int, "image_id": int, "category_id": int, "segmentation": dict, "area": float, "bbox": list,
            "iscrowd": int,
        }  # fmt: skip
        assert record["area"] == sum(record["segmentation"]["counts"][1::2])
        x, y, width, height = record["bbox"]
        assert 0 <= x < x + width <= 32 and 0 <= y < y + height <= 32 and width * height >= record["area"]
    assert any(ref["sentences"][0]["sent"].startswith("all ") for ref in refs)
    for ref in refs:
        assert types_of(ref) == {
            "ref_id": int, "ann_id": int, "image_id": int, "category_id": int, "file_name": str, "split": str,
            "sent_ids": list, "sentences": list,
        }  # fmt: skip
        target, (said,) = objects[ref["ann_id"]], ref["sentences"]
        assert (target["image_id"], target["category_id"]) == (ref["image_id"], ref["category_id"])
        assert ref["sent_ids"] == [said["sent_id"]] and said["tokens"] == said["sent"].split()
        assert target["iscrowd"] == said["sent"].startswith("all ")
        assert categories[target["category_id"]] in said["sent"] or target["iscrowd"]


def test_objects_of_refcoco_are_those_of_the_scenes(written):
    """The crowds, of which each has its members beside it, change nothing of a category's mask."""
    folder = written["refcoco"]
    rows = load_coco(folder / "refcoco/instances.json", folder / PICTURES, min_area=0)
    expected = []
    for index in range(COUNT):
        scene = SCENES.scene(index)
        for name in set(scene.names):
            expected.append(scene.masks[[other == name for other in scene.names]].any(0).tobytes())
    assert sorted((np.asarray(row["masks"][0]) > 0).tobytes() for row in rows) == sorted(expected)


def test_turns_of_magicbrush_are_the_edits_of_the_evaluation(written):
    folder = written["magicbrush"] / "test"
    turns = read(folder / "edit_turns.json")
    sessions = read(folder / "edit_sessions.json")
    assert [turn for session in sessions.values() for turn in session] == turns
    for turn, row, name in zip(turns, replace(SCENES, tasks=("edit",)), sessions, strict=True):
        assert types_of(turn) == {"input": str, "mask": str, "output": str, "instruction": str}
        assert turn["instruction"] == row["messages"][0]["content"][-1]["text"]
        assert [turn[key] for key in ("input", "mask", "output")] == [
            f"{name}-input.png", f"{name}-mask1.png", f"{name}-output1.png"
        ]  # fmt: skip
        before, after = row["images"]
        assert pixels(folder / "images" / name / turn["input"]) == before.tobytes()
        assert pixels(folder / "images" / name / turn["output"]) == after.tobytes()
        with Image.open(folder / "images" / name / turn["mask"]) as mask:
            transparent = np.asarray(mask)[..., 3] == 0
            assert mask.mode == "RGBA" and set(np.asarray(mask)[transparent].ravel()) == {0, 255}
        changed = np.zeros_like(np.asarray(before))
        changed[transparent] = 1
        assert np.array_equal(np.where(changed, np.asarray(after), np.asarray(before)), np.asarray(after))
        assert np.array_equal(transparent, (np.asarray(after) != np.asarray(before)).any(-1))


def test_what_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(ValueError, match="holds something"):
        export("vqav2", tmp_path)
    with pytest.raises(ValueError, match="choose one of vqav2, coco-captions"):
        export("vqav3", tmp_path / "new")
    with pytest.raises(ValueError, match="choose one of test, validation"):
        export("vqav2", tmp_path / "new", split="train")
    with pytest.raises(ValueError, match="num_scenes >= 1"):
        export("vqav2", tmp_path / "new", num_scenes=0)


def test_command_writes_scenes_of_the_size_asked_for(tmp_path, capsys):
    main(
        ["pope", "--output", str(tmp_path / "out"), "--num_scenes", "2", "--image_size", "48", "--split", "validation"]
    )
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    scene = EmojiScenes("validation", 1, SceneConfig(image_size=48)).scene(0)
    assert pixels(tmp_path / "out" / "val2014" / "COCO_val2014_000000000001.jpg") == scene.image.tobytes()
    with pytest.raises(SystemExit, match="Error: .* holds something: give a new or an empty folder"):
        main(["pope", "--output", str(tmp_path / "out")])
