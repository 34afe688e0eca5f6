"""ImageNet's validation pictures, flat as released or in folders of their classes."""

import math
import shutil
from pathlib import Path

import pytest
from PIL import Image

from modeling_setok import SetokForPreTraining
from modeling_setok.concept_contrastive import unit
from processing import SetokImageProcessor
from tests.setokim_testing import pictures, tiny_setok
from training.data.concept_text import concept_text_features
from training.evaluation.benchmark.benchmark import Networks
from training.evaluation.benchmark.generation.imagenet import IMAGENET_RECONSTRUCTION, IMAGENET_ZERO_SHOT, SIDE

CLASSES = {1: "n01440764", 2: "n02012849", 3: "n03126707", 4: "n01440764"}
NAMES = "n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\nn15075141 toilet tissue, toilet paper\n"
SOLUTION = "ImageId,PredictionString\n" + "".join(
    f"ILSVRC2012_val_{number:08},{name} 85 1 499 272 {name} 1 2 3 4 \n" for number, name in reversed(CLASSES.items())
)


def write(root: Path, flat: bool = False) -> None:
    for (number, name), picture in zip(CLASSES.items(), pictures(4, size=(48, 36)), strict=True):
        folder = root / "val" / ("" if flat else name)
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"ILSVRC2012_val_{number:08}.JPEG", quality=95)
    (root / "LOC_synset_mapping.txt").write_text(NAMES)
    if flat:
        (root / "LOC_val_solution.csv").write_text(SOLUTION)


def test_pictures_come_in_their_own_order_as_squares(tmp_path):
    write(tmp_path)
    examples = IMAGENET_RECONSTRUCTION.read(tmp_path, "val")
    assert [example.key for example in examples] == [
        f"{name}/ILSVRC2012_val_{number:08}.JPEG" for number, name in CLASSES.items()
    ]
    (picture,) = examples[0].pictures()
    with Image.open(examples[0].images[0]) as file:
        assert picture.tobytes() == file.crop((6, 0, 42, 36)).resize((SIDE, SIDE), Image.Resampling.BICUBIC).tobytes()


@pytest.mark.parametrize("flat", [True, False])
def test_classes_and_their_names(tmp_path, flat):
    write(tmp_path, flat)
    examples = IMAGENET_ZERO_SHOT.read(tmp_path, "val")
    assert [example.truth for example in examples] == ["tench", "crane", "crane", "tench"]
    assert {example.choices for example in examples} == {("tench", "crane", "toilet tissue")}
    (tmp_path / "classnames.txt").write_text(NAMES.replace("n03126707 crane", "n03126707 construction crane"))
    assert IMAGENET_ZERO_SHOT.read(tmp_path, "val")[2].truth == "construction crane"


def test_top_1_by_hand(tmp_path):
    write(tmp_path)
    examples = IMAGENET_ZERO_SHOT.read(tmp_path, "val")
    answers = ["tench", "crane", "tench", "toilet tissue"]
    found = IMAGENET_ZERO_SHOT.score(examples, answers, Networks())
    assert found == {"num_examples": 4, "top1": 0.5, "top1_chance": pytest.approx(1 / 3)}


def test_a_perfect_reconstruction(tmp_path, encoder_folder, lpips_file):
    write(tmp_path)
    examples = IMAGENET_RECONSTRUCTION.read(tmp_path, "val")[:2]
    networks = Networks(features=encoder_folder, lpips=lpips_file)
    found = IMAGENET_RECONSTRUCTION.score(examples, [example.pictures()[0] for example in examples], networks)
    assert found == {
        "num_examples": 2,
        "psnr": math.inf,
        "ssim": pytest.approx(1, abs=1e-4),
        "lpips_vgg": 0,
        "fd_encoder": pytest.approx(0, abs=1e-3),
    }


def test_a_wrong_reconstruction_by_hand(tmp_path, encoder_folder, lpips_file):
    (tmp_path / "val").mkdir()
    for name, colour in (("1", (100, 100, 100)), ("2", (200, 200, 200))):
        Image.new("RGB", (60, 40), colour).save(tmp_path / "val" / f"{name}.png")
    examples = IMAGENET_RECONSTRUCTION.read(tmp_path, "val")
    answers = [Image.new("RGB", (24, 24), (151, 151, 151)), Image.new("RGB", (24, 24), (149, 149, 149))]
    networks = Networks(features=encoder_folder, lpips=lpips_file)
    found = IMAGENET_RECONSTRUCTION.score(examples, answers, networks)
    assert found["psnr"] == pytest.approx(20 * math.log10(255 / 51))  # both are 51 of 255 off
    assert found["ssim"] < 1 and found["lpips_vgg"] > 0 and found["fd_encoder"] > 0


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match="There is no val in"):
        IMAGENET_RECONSTRUCTION.read(tmp_path, "val")
    write(tmp_path, flat=True)
    (tmp_path / "LOC_val_solution.csv").unlink()
    assert len(IMAGENET_RECONSTRUCTION.read(tmp_path, "val")) == 4  # which needs no classes
    with pytest.raises(ValueError, match="has no LOC_val_solution.csv, .* folders of their classes"):
        IMAGENET_ZERO_SHOT.read(tmp_path, "val")
    (tmp_path / "LOC_synset_mapping.txt").unlink()
    with pytest.raises(ValueError, match="There is no classnames.txt or LOC_synset_mapping.txt in"):
        IMAGENET_ZERO_SHOT.read(tmp_path, "val")


def test_a_class_without_a_name_is_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01440764 tench\n")
    with pytest.raises(ValueError, match="is of class 'n02012849', of 2 whose name is not known"):
        IMAGENET_ZERO_SHOT.read(tmp_path, "val")
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01440764\n")
    with pytest.raises(ValueError, match="a line without a name: 'n01440764'"):
        IMAGENET_ZERO_SHOT.read(tmp_path, "val")


def test_through_the_command(run, setok_folder, tmp_path):
    write(tmp_path)
    measured = run("imagenet-reconstruction", setok_folder, tmp_path, tmp_path / "results.json", "--limit", "3")
    folder = tmp_path / "results.predictions"
    painted = [Image.open(folder / line["answer"]["file"]) for line in measured.predictions[1:]]
    examples = IMAGENET_RECONSTRUCTION.read(tmp_path, "val")[:3]
    expected = IMAGENET_RECONSTRUCTION.score(examples, painted, Networks())
    assert {key: measured.results[key] for key in expected} == pytest.approx(expected)


def test_names_through_the_command(run, clip_folder, tmp_path):
    config = tiny_setok().config
    config.text_feature_dim = 8
    setok, image_processor = SetokForPreTraining(config).eval(), SetokImageProcessor(size={"height": 24, "width": 24})
    setok.save_pretrained(tmp_path / "setok")
    image_processor.save_pretrained(tmp_path / "setok")
    write(tmp_path)
    encoder = ["--text_encoder", clip_folder]
    measured = run("imagenet-zero-shot", tmp_path / "setok", tmp_path, tmp_path / "results.json", *encoder)

    names = ["tench", "crane", "toilet tissue"]
    texts = unit(setok.text_projection(concept_text_features(names, clip_folder)))
    nearest = []
    for example in IMAGENET_ZERO_SHOT.read(tmp_path, "val"):
        tokens = setok.setok(image_processor(example.pictures(), return_tensors="pt")["pixel_values"]).last_hidden_state
        nearest.append(names[(unit(setok.visual_projection(tokens[0].mean(0))) @ texts.T).argmax()])
    assert [line["answer"] for line in measured.predictions[1:]] == nearest
    right = sum(name == truth for name, truth in zip(nearest, ["tench", "crane", "crane", "tench"], strict=True))
    assert measured.results["top1"] == right / 4
    another = str(shutil.copytree(clip_folder, tmp_path / "another"))
    with pytest.raises(SystemExit, match="another run, with text_encoder .* instead of .*/another'"):
        run("imagenet-zero-shot", tmp_path / "setok", tmp_path, tmp_path / "results.json", "--text_encoder", another)
