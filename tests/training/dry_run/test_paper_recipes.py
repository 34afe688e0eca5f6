"""The recipes of the paper's size on a few rows of each data set: what a dry run tells of them, and a training step."""

import importlib
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import PreTrainedModel

from processing import SetokimProcessor
from tests.paper_data import RECIPES, paper_recipe, write_paper_data
from tests.setokim_testing import tiny_language_model, tiny_setokim
from training.data.setokim_collator import SetokimCollator
from training.data.sources import stream_part

# Rows that are told, and those found bad
PARTS = {
    "slimpajama": (None, 0), "imagenet": (3, 0), "open_images": (2, 0), "cc12m": (None, 0), "laion": (None, 1),
    "allava_caption_laion": (1, 0), "allava_caption_vflan": (1, 0), "instructpix2pix": (2, 0), "llava_595k": (3, 1),
    "coco_captions": (2, 0), "visual_genome": (1, 0), "coco": (2, 0), "allava_instruct_laion": (1, 0),
    "allava_instruct_vflan": (1, 0), "sharegpt4v": (2, 0), "alpaca": (2, 0), "llava_665k": (2, 0), "vqa_v2": (2, 0),
    "gqa": (2, 0), "ok_vqa": (3, 0), "aokvqa": (6, 0), "refcoco": (2, 0), "refcoco+": (2, 0), "refcocog": (2, 0),
    "magicbrush": (1, 0), "conversation": (1, 0),
}  # fmt: skip
SCRIPTS = {"pretrain": "pretrain", "masks": "pretrain", "finetune": "finetune", "lora": "finetune"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("paper")
    write_paper_data(root)
    return root


@pytest.fixture(scope="module")
def language_model_folder(tmp_path_factory, processor) -> Path:
    folder = tmp_path_factory.mktemp("language_model")
    tiny_language_model("llama", len(processor.tokenizer)).save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def recipe(tree, tmp_path, monkeypatch, setok_folder, setokim_folder, language_model_folder):
    """Writes a recipe of the paper's size with tiny models, where its data lie."""
    monkeypatch.chdir(tree)

    def write(name: str, **overrides) -> str:
        values = paper_recipe(name) | {"output_dir": str(tmp_path / "run"), "use_cpu": True, "report_to": "none"}
        if name == "pretrain":
            values |= {
                "setok_model_name_or_path": str(setok_folder),
                "language_model_name_or_path": str(language_model_folder),
            }
        else:
            values["model_name_or_path"] = str(setokim_folder)
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(values | overrides))
        return str(path)

    return write


def dry_run(name: str, recipe: str, *arguments: str) -> int:
    main = importlib.import_module(f"training.{SCRIPTS[name]}_setokim").main
    with pytest.raises(SystemExit) as end:
        main([recipe, "--dry_run", *arguments])
    return end.value.code


def table(report: str) -> dict[str, dict[str, str]]:
    """The lines of the report's table by part."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in report.splitlines() if line[:1] == "|"]
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


@pytest.mark.parametrize("name", RECIPES)
def test_a_dry_run_tells_rows_shares_and_steps_without_a_weight(name, recipe, tmp_path, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("weights are loaded")

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", refuse)
    assert dry_run(name, recipe(name, max_length=600), "--dry_run_processes", "64") == 0
    report = (tmp_path / "run" / "dry_run.md").read_text()
    assert capsys.readouterr().out == f"{report}\n"
    lines, values = table(report), paper_recipe(name)
    assert list(lines) == [part["name"] for part in values["mixture"]]
    for part, line in lines.items():
        rows, bad = PARTS[part]
        assert line["rows"].split(" ")[0] == ("unknown" if rows is None else str(rows))
        assert line["bad rows"].split(" ")[0] == str(bad)
        assert (line["steps an epoch"] == "unknown") == (rows is None)
        assert f"### {part}\n\n````\n<|im_start|>" in report
    rows_a_step = values["per_device_train_batch_size"] * values["gradient_accumulation_steps"] * 64
    assert f"A step has {rows_a_step} rows" in report
    for column, whole in (("share of rows", 100), ("share of tokens", 100), ("rows a step", rows_a_step)):
        told = sum(float(line[column].removesuffix(" %")) for line in lines.values())
        assert told == pytest.approx(whole, abs=0.06 * len(lines))
    assert (tmp_path / "run" / "dry_run.png").stat().st_size > 1000
    assert "## Missing" not in report and "## Would stop" not in report
    if name == "pretrain":
        assert lines["slimpajama"]["too long"] == "1 cut to pieces of 4"
        assert "llava_595k: 1 x picture … does not exist" in report and "laion: 1 x " in report
        assert "object at …>" in report  # without the address, which differs from row to row
        assert "[Img]<image>[/Img]" in report and "Draw: Fungus, edible." in report


def test_all_that_is_missing_is_named_at_once(recipe, tree, tmp_path):
    hidden = ["data/coco/train2017", "data/imagenet/LOC_synset_mapping.txt", "data/LAION-aesthetics-12M"]
    for number, path in enumerate(hidden):
        shutil.move(path, tmp_path / str(number))
    try:
        file = recipe("pretrain", language_model_name_or_path="nobody/gated", setok_model_name_or_path="runs/none")
        assert dry_run("pretrain", file) == 1
    finally:
        for number, path in enumerate(hidden):
            shutil.move(tmp_path / str(number), path)
    report = (tmp_path / "run" / "dry_run.md").read_text()
    missing = report.split("## Missing\n")[1].split("##")[0]
    for told in (
        "nobody/gated (AutoTokenizer)", "runs/none (SetokConfig)", "coco_captions: data/coco/train2017",
        "imagenet: data/imagenet/LOC_synset_mapping.txt", "laion: data/LAION-aesthetics-12M/*.tar",
    ):  # fmt: skip
        assert told in missing
    lines = table(report)
    assert lines["imagenet"]["rows"] == lines["laion"]["rows"] == "-" and lines["open_images"]["rows"] == "2"
    assert {line["share of tokens"] for line in lines.values()} == {"-", "not counted"}
    assert "No token is counted" in report and "Of 3 parts nothing could be read" in report
    assert "their most tokens" in report or "its most tokens are taken to be 64" in report


@pytest.fixture(scope="module")
def model(processor: SetokimProcessor):
    return tiny_setokim(processor).train()


@pytest.mark.parametrize(
    "part",
    {part["name"]: part for name in RECIPES for part in paper_recipe(name)["mixture"]}.values(),
    ids=lambda part: part["name"],
)
def test_rows_of_each_data_set_pass_the_collator_and_a_step(part, tree, processor, model, monkeypatch):
    monkeypatch.chdir(tree)
    stream = stream_part(part, "train")
    rows = []
    for lazy in stream.rows:
        try:
            rows.append(stream.open(lazy))
        except ValueError:
            assert PARTS[part["name"]][1]
    batch = SetokimCollator(processor)(rows[:2])
    model.zero_grad()
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    assert torch.isfinite(loss) and sum(weight.grad.abs().sum() for weight in model.lm_head.parameters()) > 0


@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_a_recipe_trains_on_all_its_data(name, recipe, tmp_path):
    main = importlib.import_module(f"training.{SCRIPTS[name]}_setokim").main
    mixture = [part | {"weight": 1} for part in paper_recipe(name)["mixture"]]
    options = {
        "mixture": mixture, "max_steps": 1, "per_device_train_batch_size": 32, "gradient_accumulation_steps": 1,
        "dataloader_num_workers": 0, "bf16": False, "activation_checkpointing": False, "max_length": 600,
    }  # fmt: skip
    if name == "pretrain":
        options |= {"calibration_images": 8}
    trainer = main([recipe(name, **options)])
    assert trainer.state.global_step == 1 and os.path.exists(tmp_path / "run" / "trainer_state.json")
