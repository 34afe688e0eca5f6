"""COCO's captions and pictures, as released."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.setokim_testing import pictures
from training.evaluation.benchmark.benchmark import Networks
from training.evaluation.benchmark.generation import coco
from training.evaluation.benchmark.generation.coco import COCO_TEXT_TO_IMAGE
from training.evaluation.benchmark.generation.networks import Clip, PictureEncoder
from training.evaluation.benchmark.generation.pictures import central_square

CAPTIONS = {
    42: ["This wire metal rack holds several pairs of shoes and sandals", "A wire rack."],
    73: ["A motorcycle parked\nin a parking space. "],
    74: ["A picture of a dog laying on the ground."],
    133: ["A loft bed with a dresser underneath it."],
}


def write(root: Path) -> None:
    (root / "annotations").mkdir(parents=True)
    (root / "val2014").mkdir()
    images, annotations = [], []
    for number, (image_id, captions) in enumerate(CAPTIONS.items()):
        file_name = f"COCO_val2014_{image_id:012}.jpg"
        pictures(4, size=(48, 36))[number].save(root / "val2014" / file_name, quality=95)
        images.append({"license": 3, "file_name": file_name, "height": 36, "width": 48, "id": image_id})
        annotations += [{"image_id": image_id, "id": 100 + number, "caption": caption} for caption in captions]
    images.append({"license": 3, "file_name": "COCO_val2014_000000000999.jpg", "height": 1, "width": 1, "id": 999})
    content = {"info": {}, "images": images, "licenses": [], "annotations": annotations}
    (root / "annotations/captions_val2014.json").write_text(json.dumps(content))


def test_a_picture_is_asked_for_by_its_first_caption(tmp_path):
    write(tmp_path)
    examples = COCO_TEXT_TO_IMAGE.read(tmp_path, "val2014")
    assert {example.key: example.request for example in examples} == {
        "42": "Draw: This wire metal rack holds several pairs of shoes and sandals.",
        "73": "Draw: A motorcycle parked in a parking space.",
        "74": "Draw: A picture of a dog laying on the ground.",
        "133": "Draw: A loft bed with a dresser underneath it.",
    }
    assert not any(example.images for example in examples)
    assert examples == COCO_TEXT_TO_IMAGE.read(tmp_path, "val2014")


def test_fewer_are_the_first_of_the_same_draw(tmp_path, monkeypatch):
    write(tmp_path)
    everything = COCO_TEXT_TO_IMAGE.read(tmp_path, "val2014")
    monkeypatch.setattr(coco, "MOST_PICTURES", 2)
    assert COCO_TEXT_TO_IMAGE.read(tmp_path, "val2014") == everything[:2]


def test_scores_by_hand(tmp_path, encoder_folder, clip_folder):
    write(tmp_path)
    examples = COCO_TEXT_TO_IMAGE.read(tmp_path, "val2014")
    photographs = [Image.open(example.truth[0]) for example in examples]
    networks = Networks(features=encoder_folder, clip=clip_folder)
    perfect = COCO_TEXT_TO_IMAGE.score(examples, photographs, networks)
    assert perfect["num_examples"] == 4
    assert perfect["fd_encoder"] == pytest.approx(0, abs=1e-3)
    assert perfect["clip_similarity"] == pytest.approx(perfect["clip_similarity_photographs"])

    grey = Image.new("RGB", (24, 24), "grey")  # four times the same: all that varies is in the photographs
    found = COCO_TEXT_TO_IMAGE.score(examples, [grey] * 4, networks)
    encoder = PictureEncoder.from_pretrained(encoder_folder)
    true = encoder.encode([central_square(picture, coco.SIDE) for picture in photographs]).double()
    painted = encoder.encode([central_square(grey, coco.SIDE)]).double()
    expected = (true.mean(0) - painted[0]).square().sum() + true.var(0).sum()  # |difference of means|² + variance
    assert found["fd_encoder"] == pytest.approx(expected.item(), rel=1e-3)
    clip = Clip.from_pretrained(clip_folder)
    captions = clip.encode_texts([CAPTIONS[int(example.key)][0].replace("\n", " ").strip() for example in examples])
    cosines = torch.nn.functional.cosine_similarity(clip.encode([grey]), captions)
    assert found["clip_similarity"] == pytest.approx(cosines.mean().item(), abs=1e-5)
    assert found["clip_similarity_photographs"] == pytest.approx(perfect["clip_similarity"])


def test_what_has_no_network_is_left_out(tmp_path, encoder_folder):
    write(tmp_path)
    examples = COCO_TEXT_TO_IMAGE.read(tmp_path, "val2014")
    grey = Image.new("RGB", (24, 24), "grey")
    assert COCO_TEXT_TO_IMAGE.score(examples, [grey] * 4, Networks()) == {"num_examples": 4}
    one = COCO_TEXT_TO_IMAGE.score(examples[:1], [grey], Networks(features=encoder_folder))
    assert one == {"num_examples": 1}  # one picture has no distribution


@pytest.mark.parametrize("missing", ["annotations/captions_val2014.json", "val2014"])
def test_a_missing_file_is_named(tmp_path, missing):
    write(tmp_path)
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"There is no {missing} in"):
        COCO_TEXT_TO_IMAGE.read(tmp_path, "val2014")


def test_a_missing_picture_is_named(tmp_path):
    write(tmp_path)
    (tmp_path / "val2014/COCO_val2014_000000000042.jpg").unlink()
    with pytest.raises(ValueError, match="COCO_val2014_000000000042.jpg' does not exist"):
        COCO_TEXT_TO_IMAGE.read(tmp_path, "val2014")


def test_through_the_command(run, setokim_folder, encoder_folder, clip_folder, tmp_path):
    write(tmp_path)
    networks = ["--features", encoder_folder, "--clip", clip_folder]
    measured = run("coco-text-to-image", setokim_folder, tmp_path, tmp_path / "results.json", *networks)
    folder = tmp_path / "results.predictions"
    painted = [Image.open(folder / line["answer"]["file"]) for line in measured.predictions[1:]]
    examples = COCO_TEXT_TO_IMAGE.read(tmp_path, "val2014")
    expected = COCO_TEXT_TO_IMAGE.score(examples, painted, Networks(encoder_folder, clip_folder))
    assert {key: measured.results[key] for key in expected} == pytest.approx(expected)
    assert "encoder of --features" in measured.table and "Inception" not in measured.table
