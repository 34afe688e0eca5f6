"""Stage 0 on a mixture like the paper's: pictures alone and pictures with names, from files as they are released."""

from collections import Counter
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from modeling_setok import SetokConfig, SetokForPreTraining
from processing import SetokImageProcessor
from tests.script_testing import ROOT, assert_same_runs, copy_checkpoint, finish, launch, losses
from tests.training.test_train_setok import tiny_recipe
from training.configs import new_config
from training.data.mixture import Mixture
from training.data.setok_collator import SetokCollator
from training.train_setok import DataArguments, load_data, main

CLASSES = "LabelName,DisplayName\n/m/1,Tortoise\n/m/2,Man\n/m/3,Car\n/m/4,Unseen\n"


def write_picture(file: Path, number: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (30 + number % 7, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")


def open_images(root: Path) -> dict:
    files = {name: str(root / f"{name}.csv") for name in ("labels", "classes")}
    return {"dataset": "open_images", **files, "images": [str(root / "images")], "task": "concepts"}


def write_open_images(part: dict, num_pictures: int, first: int) -> dict:
    """The files that a part of a mixture names, all pictures in the last of its folders."""
    folders = [Path(folder) for folder in ([part["images"]] if isinstance(part["images"], str) else part["images"])]
    for folder in folders:
        folder.mkdir(parents=True)
    lines = ["ImageID,Source,LabelName,Confidence"]
    for number in range(first, first + num_pictures):
        write_picture(folders[-1] / f"{number:016x}.jpg", number)
        lines += [f"{number:016x},verification,/m/{1 + number % 3},1", f"{number:016x},verification,/m/4,0"]
    Path(part["labels"]).write_text("\n".join(lines))
    Path(part["classes"]).write_text(CLASSES)
    return part


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict:
    """What a recipe says of its data: ImageNet's folders of classes, one picture broken, and Open Images."""
    root = tmp_path_factory.mktemp("data")
    for number in range(12):
        synset = f"n0144{number % 2:04d}"
        write_picture(root / "imagenet" / synset / f"{synset}_{number}.JPEG", number)
        write_picture(root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG", 100 + number)
    (root / "imagenet" / "n01440000" / "n01440000_0.JPEG").write_bytes(b"not a picture")
    return {
        "mixture": [
            {"dataset": "imagenet", "folder": str(root / "imagenet"), "task": "reconstruction", "on_error": "skip"},
            {**write_open_images(open_images(root / "train"), 12, 200), "weight": 2},
        ],
        "eval_mixture": [
            {"dataset": "pictures", "root": str(root / "val")},
            write_open_images(open_images(root / "validation"), 6, 300),
        ],
        "concept_names": [str(root / "train" / "classes.csv")],
        "eval_examples": 4,
    }


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "cache")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_streamed_run_goes_on_bit_for_bit(workers, data, tmp_path):
    options = data | {
        "streaming": True, "shuffle_buffer": 4, "dataloader_num_workers": workers, "max_steps": 6, "save_steps": 3,
        "adversarial_weight": 0.1, "discriminator_width": 8, "calibration_images": 64,
    }  # fmt: skip
    trainer = main([str(tiny_recipe(tmp_path / "whole", **options))])
    copy_checkpoint(tmp_path / "whole" / "run", 3, tmp_path / "again")
    main([str(tiny_recipe(tmp_path / "again", **options))])
    assert_same_runs(tmp_path / "again" / "run", tmp_path / "whole" / "run")
    steps = losses(tmp_path / "whole" / "run")
    assert all(step["reconstruction_loss"] > 0 for step in steps) and any(
        step["contrastive_loss"] > 0 for step in steps
    )
    assert trainer.model.config.concept_names == ["Tortoise", "Man", "Car", "Unseen"]
    assert "n01440000_0.JPEG" in (tmp_path / "whole" / "run" / "skipped_rows.jsonl").read_text()
    metrics = trainer.evaluate()
    assert metrics["eval_num_images"] == 4 and metrics["eval_r_precision"] >= 0


def test_a_mixture_that_is_looked_at_whole(data, tmp_path):
    """Its names are those of its rows, and the bad picture is told at once."""
    with pytest.warns(UserWarning, match="n01440000_0.JPEG"):
        trainer = main(
            [str(tiny_recipe(tmp_path, **data | {"concept_names": [], "train_examples": 9, "max_steps": 2}))]
        )
    assert isinstance(trainer.train_dataset, Mixture) and len(trainer.train_dataset) == 9
    assert [row["task"] for row in trainer.train_dataset].count("concepts") == 6
    assert trainer.model.config.concept_names == ["Car", "Man", "Tortoise"]
    assert trainer.evaluate()["eval_num_images"] == 4


def test_a_stream_with_names_needs_them_in_advance(data, tmp_path):
    recipe = tiny_recipe(tmp_path, **data | {"concept_names": [], "eval_examples": 0, "streaming": True})
    with pytest.raises(
        ValueError, match=r"concepts: labels.csv, picture \w+: the name .* not among the 0 of the concept"
    ):
        main([str(recipe)])


def test_a_dataset_takes_the_place_of_a_mixture(data, tmp_path, caplog):
    """As the README has own pictures trained with the paper's recipe."""
    recipe = tiny_recipe(tmp_path, **data | {"streaming": True, "max_steps": 1})
    folder = Path(data["eval_mixture"][0]["root"])
    trainer = main([str(recipe), "--dataset", str(folder)])
    assert len(trainer.train_dataset) == 8 and trainer.model.config.concept_names is None
    assert "takes the place of the mixture" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"streaming": True}, "streaming, eval_mixture and concept_names are of a mixture"),
        ({"mixture": [{"dataset": "pictures"}]}, "first eval_examples = 200 rows of eval_mixture"),
        ({"mixture": [{"dataset": "pictures"}], "eval_examples": 0, "patch_cache": "x"}, "a mixture reads pixels"),
    ],
)
def test_what_does_not_fit_together_is_said(values, message):
    with pytest.raises(ValueError, match=message):
        DataArguments(**values)


def test_the_recipe_of_the_papers_size_reads_what_is_released(tmp_path, monkeypatch):
    """Files of the names that it gives, a few rows in each."""
    values = yaml.safe_load((ROOT / "training" / "recipes" / "setok_so400m_384.yaml").read_text())
    arguments = DataArguments(
        **{field.name: values[field.name] for field in fields(DataArguments) if field.name in values}
    )
    monkeypatch.chdir(tmp_path)
    (imagenet, objects), (held_out, held_out_objects) = arguments.mixture, arguments.eval_mixture
    for number in range(5):
        write_picture(Path(imagenet["folder"], "n01440764", f"n01440764_{number}.JPEG"), number)
        write_picture(Path(held_out["root"], f"ILSVRC2012_val_{number:08d}.JPEG"), 100 + number)
    write_open_images(objects, 20, 200)
    write_open_images(held_out_objects, 6, 300)
    rows, examples, names = load_data(replace(arguments, eval_examples=5))
    assert names == ["Tortoise", "Man", "Car", "Unseen"] and len(examples) == 5
    tasks = Counter((row["task"], len(row["concepts"])) for row in islice(rows, 200))
    assert tasks.keys() == {("reconstruction", 0), ("concepts", 1)}
    assert tasks["concepts", 1] / 200 == pytest.approx(9 / 10.28, abs=0.1)


def test_two_processes_stream(data, tmp_path):
    """Also where one of them has no name in its batch."""
    options = data | {"streaming": True, "max_steps": 3, "save_strategy": "no", "per_device_train_batch_size": 1}
    finish(launch("train_setok.py", tiny_recipe(tmp_path, **options), processes=2))
    assert len(losses(tmp_path / "run")) == 3


def test_rows_without_names_count_for_reconstruction_alone(tmp_path):
    """A mixed batch has the contrastive loss of its rows with names, and the reconstruction loss of all."""
    torch.manual_seed(0)
    values = yaml.safe_load(tiny_recipe(tmp_path).read_text())["config"] | {"text_feature_dim": 8}
    model = SetokForPreTraining(new_config(SetokConfig, values)).eval()
    names = ["dog", "cat", "owl"]
    model.set_concepts(names, torch.nn.functional.normalize(torch.randn(3, 8), dim=-1))
    collate = SetokCollator(
        SetokImageProcessor(size={"height": 32, "width": 32}), names, max_concepts=2, target_size=32
    )
    pictures = [Image.effect_noise((32, 32), 20.0 + 20 * number).convert("RGB") for number in range(5)]
    labels = [["dog"], [], ["cat", "owl"], ["owl"], []]
    rows = [{"images": [picture], "concepts": of_row} for picture, of_row in zip(pictures, labels, strict=True)]
    named, bare = ([row for row in rows if bool(row["concepts"]) == which] for which in (True, False))
    mixed, of_named, of_bare = (model(**collate(some)) for some in (rows, named, bare))
    torch.testing.assert_close(mixed.contrastive_loss, of_named.contrastive_loss)
    assert of_named.contrastive_loss > 0 and of_bare.contrastive_loss == 0
    expected = (3 * of_named.reconstruction_loss + 2 * of_bare.reconstruction_loss) / 5
    torch.testing.assert_close(mixed.reconstruction_loss, expected)
    of_bare.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    features = [output.image_features.detach() for output in (mixed, of_named)]
    torch.testing.assert_close(features[0][[0, 2, 3]], features[1])
