import json

import pytest

from tests.benchmark_releases import write_coco_captions, write_flickr30k, write_json
from training.evaluation.benchmark.benchmark import Networks
from training.evaluation.benchmark.understanding import COCO_CAPTIONS, FLICKR30K


def test_coco_by_karpathys_splits_and_by_its_own(tmp_path):
    write_coco_captions(tmp_path)
    (test,) = COCO_CAPTIONS.read(tmp_path, "test")
    assert (test.key, test.truth) == ("522418", ["A woman cuts a cake."])
    assert test.images[0].parts[-2:] == ("val2014", "COCO_val2014_000000522418.jpg")
    both = COCO_CAPTIONS.read(tmp_path, "val2017")
    assert [(example.key, len(example.truth)) for example in both] == [("391895", 2), ("522418", 1)]
    assert both[0].images[0].parts[-2:] == ("val2017", "000000391895.jpg")
    (submitted,) = COCO_CAPTIONS.submission(both, ["a bike", "a cake"]).values()
    assert json.loads(submitted) == [
        {"image_id": 391895, "caption": "a bike"},
        {"image_id": 522418, "caption": "a cake"},
    ]


def test_flickr30k(tmp_path):
    (example,) = FLICKR30K.read(write_flickr30k(tmp_path), "test")
    assert example.truth == ["Two men.", "Men outside."] and example.images[0].name == "1000092795.jpg"


def test_scores_are_those_of_the_captions(tmp_path):
    pytest.importorskip("pycocoevalcap")
    examples = COCO_CAPTIONS.read(write_coco_captions(tmp_path), "val2017")
    same = COCO_CAPTIONS.score(examples, ["a man rides a bike", "A woman cuts a cake!"], Networks())
    assert same["num_examples"] == 2 and same["cider_d"] > 5
    assert same["bleu_4"] == pytest.approx(1) and same["rouge_l"] == pytest.approx(1)
    other = COCO_CAPTIONS.score(examples, ["green", "green"], Networks())
    assert other["cider_d"] == 0 and other["rouge_l"] == 0


def test_a_picture_without_a_caption_is_refused(tmp_path):
    write_coco_captions(tmp_path)
    file = tmp_path / "annotations" / "captions_val2017.json"
    content = json.loads(file.read_text())
    write_json(file, content | {"annotations": content["annotations"][:2]})
    with pytest.raises(ValueError, match="picture 522418 has no caption"):
        COCO_CAPTIONS.read(tmp_path, "val2017")
