"""ImageNet's validation pictures, flat as released or in folders of their classes."""

import math
from pathlib import Path

import pytest
from PIL import Image

from tests.setokim_testing import pictures
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
