import json

import pytest

from tests.benchmark_releases import write_aokvqa, write_gqa, write_json, write_okvqa, write_vizwiz, write_vqav2
from training.evaluation.benchmark.benchmark import Networks
from training.evaluation.benchmark.understanding import AOKVQA, GQA, OKVQA, VIZWIZ, VQAV2


def scored(benchmark, examples, answers):
    return benchmark.score(examples, answers, Networks())


def test_vqav2_counts_the_annotators_that_agree(tmp_path):
    examples = VQAV2.read(write_vqav2(tmp_path), "val")
    assert [(example.key, example.request) for example in examples] == [
        ("42000", "What is in front of the batter?"),
        ("42001", "How many dogs are there?"),
        ("73000", "Is it raining?"),
    ]
    assert [example.images[0].name for example in examples] == [
        *["COCO_val2014_000000000042.jpg"] * 2,
        "COCO_val2014_000000000073.jpg",
    ]
    answers = ["A net.", "Two", "no"]
    # 4 of 10: whoever is left out, 3 agree. 2 of 10: 1/3 where one of the two is left out, else 2/3
    assert scored(VQAV2, examples, answers) == pytest.approx(
        {
            "num_examples": 3,
            "accuracy": (1 + 0.6 + 0) / 3,
            "other_accuracy": 1,
            "number_accuracy": 0.6,
            "yes/no_accuracy": 0,
        }
    )
    assert VQAV2.submission(examples, answers) == {
        "vqa_OpenEnded_mscoco_results.json": json.dumps(
            [
                {"question_id": 42000, "answer": "net"},
                {"question_id": 42001, "answer": "2"},
                {"question_id": 73000, "answer": "no"},
            ]
        )
    }


def test_okvqa(tmp_path):
    examples = OKVQA.read(write_okvqa(tmp_path), "val")
    assert scored(OKVQA, examples, ["race"])["accuracy"] == 1
    assert scored(OKVQA, examples, ["surfing"])["accuracy"] == 0


def test_aokvqa_counts_all_ten_and_no_difficult_question(tmp_path):
    examples = AOKVQA.read(write_aokvqa(tmp_path), "val")
    assert [example.key for example in examples] == ["22jbM6gDxdaMaunuzgrsBB", "2Aq5RiEn7eyfWjEbpuYy3z"]
    assert scored(AOKVQA, examples, ["Pipe.", "train"]) == pytest.approx(
        {"num_examples": 2, "accuracy": (2 / 3 + 0) / 2}
    )
    (submitted,) = AOKVQA.submission(examples, ["Pipe.", "train"]).values()
    assert json.loads(submitted) == {"22jbM6gDxdaMaunuzgrsBB": "pipe", "2Aq5RiEn7eyfWjEbpuYy3z": "train"}


def test_vizwiz_may_be_unanswerable(tmp_path):
    examples = VIZWIZ.read(write_vizwiz(tmp_path), "val")
    assert examples[1].request == (
        "What is the title of this book?\nWhen the provided information is insufficient, respond with 'Unanswerable'."
    )
    assert scored(VIZWIZ, examples, ["Unanswerable", "cat"]) == pytest.approx(
        {"num_examples": 2, "accuracy": 0.5, "unanswerable_accuracy": 1, "other_accuracy": 0}
    )
    test = VIZWIZ.read(tmp_path, "test")
    assert scored(VIZWIZ, test, ["cat"]) == {"num_examples": 1}
    (submitted,) = VIZWIZ.submission(test, ["A cat."]).values()
    assert json.loads(submitted) == [{"image": "VizWiz_test_00000000.jpg", "answer": "cat"}]


def test_gqa_is_told_by_kinds_of_questions(tmp_path):
    examples = GQA.read(write_gqa(tmp_path), "testdev")
    assert scored(GQA, examples, ["No.", "blue", "yes"]) == pytest.approx(
        {
            "num_examples": 3,
            "accuracy": 2 / 3,
            "binary_accuracy": 1,
            "open_accuracy": 0,
            "verify_accuracy": 1,
            "query_accuracy": 0,
            "scene_accuracy": 1,
            "attribute_accuracy": 0,
            "relation_accuracy": 1,
        }
    )
    (submitted,) = GQA.submission(examples, ["No.", "blue", "yes"]).values()
    assert json.loads(submitted)[0] == {"questionId": "201307251", "prediction": "no"}
    assert scored(GQA, GQA.read(tmp_path, "submission"), ["no"]) == {"num_examples": 1}


def test_files_that_do_not_fit_are_refused(tmp_path):
    write_vqav2(tmp_path)
    annotations = tmp_path / "v2_mscoco_val2014_annotations.json"
    content = json.loads(annotations.read_text())
    write_json(annotations, content | {"annotations": content["annotations"][:2]})
    with pytest.raises(ValueError, match="has no answers to question 73000 .*: take both files of one release"):
        VQAV2.read(tmp_path, "val")
    empty = content["annotations"][0] | {"answers": []}
    write_json(annotations, content | {"annotations": [empty, *content["annotations"][1:]]})
    with pytest.raises(ValueError, match="entry 0: 'answers' must not be empty"):
        VQAV2.read(tmp_path, "val")
    write_json(annotations, content)
    (tmp_path / "val2014" / "COCO_val2014_000000000073.jpg").unlink()
    with pytest.raises(ValueError, match="picture 'COCO_val2014_000000000073.jpg' does not exist"):
        VQAV2.read(tmp_path, "val")
    write_json(tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": [{"question": "What?"}]})
    with pytest.raises(ValueError, match="entry 0: needed are question_id, image_id, question"):
        VQAV2.read(tmp_path, "val")
