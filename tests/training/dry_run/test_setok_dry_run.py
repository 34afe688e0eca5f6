"""The dry run of stage 0: rows with and without names, names outside the concept bank, and what is missing."""

import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from PIL import Image
from transformers import BertConfig, PreTrainedModel, SiglipImageProcessorPil, SiglipVisionConfig

from tests.script_testing import ROOT
from tests.training.test_setok_mixtures import write_open_images, write_picture
from tests.training.test_train_setok import tiny_recipe
from training.train_setok import DataArguments, main

RECIPE = yaml.safe_load((ROOT / "training" / "recipes" / "setok_so400m_384.yaml").read_text(encoding="utf-8"))
OF_DATA = {field.name: RECIPE[field.name] for field in fields(DataArguments) if field.name in RECIPE}


@pytest.fixture
def paper(tmp_path, monkeypatch) -> Path:
    """A folder with the files that the recipe of the paper's size names: of ImageNet 5 rows, one of them broken, of
    Open Images 20 with a name each; and three models without weights that could be loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", _refuse)
    (imagenet, objects), (held_out, held_out_objects) = RECIPE["mixture"], RECIPE["eval_mixture"]
    for number in range(5):
        write_picture(Path(imagenet["folder"], "n01440764", f"n01440764_{number}.JPEG"), number)
        write_picture(Path(held_out["root"], f"ILSVRC2012_val_{number:08d}.JPEG"), 100 + number)
    Path(imagenet["folder"], "n01440764", "n01440764_3.JPEG").write_bytes(b"no picture")
    write_open_images(objects, 20, 200)
    write_open_images(held_out_objects, 6, 300)
    for name, config in {"vision": SiglipVisionConfig(), "text": BertConfig(), "perceptual": BertConfig()}.items():
        config.save_pretrained(name)
        Path(name, "model.safetensors").touch()
    SiglipImageProcessorPil(size={"height": 96, "width": 96}).save_pretrained("vision")
    return tmp_path


def _refuse(*args, **kwargs):
    raise AssertionError("weights are loaded")


def dry_run(folder: Path, *arguments: str, **overrides) -> tuple[int, str]:
    """Exit status and report of the paper's recipe."""
    models = {f"{name}_model_name_or_path": name for name in ("vision", "text", "perceptual")}
    values = OF_DATA | models | {"config": {}, "perceptual_weight": 0.1, "image_size": 96, "eval_examples": 5}
    sizes = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 8}
    recipe = tiny_recipe(folder, **values | sizes | overrides)
    with pytest.raises(SystemExit) as end:
        main([str(recipe), "--dry_run", *arguments])
    return end.value.code, (folder / "run" / "dry_run.md").read_text(encoding="utf-8")


def tables(report: str) -> list[dict[str, dict[str, str]]]:
    """Of each table the lines by part."""
    found = []
    for block in report.split("\n\n"):
        if block.startswith("| part"):
            lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.strip().splitlines()]
            found.append({line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]})
    return found


def test_the_recipe_of_the_papers_size_is_told_by_hand(paper, capsys):
    code, report = dry_run(paper, "--dry_run_processes", "64")
    assert code == 0 and capsys.readouterr().out == f"{report}\n"
    trained, evaluated = tables(report)
    pictures, named = trained["reconstruction"], trained["concepts"]
    assert (pictures["rows"], pictures["bad rows"]) == ("5", "1 of 5 looked up, 5 opened")
    assert (pictures["with names"], pictures["without"], pictures["names"]) == ("0 of 5 looked up", "5", "0")
    assert (named["rows"], named["bad rows"]) == ("20", "0 of 20 looked up, 20 opened")
    assert (named["with names"], named["without"]) == ("20 of 20 looked up", "0")
    assert (named["names"], named["outside the bank"]) == ("3", "0")
    assert pictures["pictures"] == "40 x 30 to 40 x 34" and named["pictures"] == "40 x 30 to 40 x 36"
    # Of 10.28 drawn rows 9 are named ones and 1.28 pictures alone, of which 4 of 5 are good
    rows = 9 + 1.28 * 4 / 5
    assert named["share of rows"] == f"{100 * 9 / rows:.1f} %"
    assert named["rows a step"] == f"{8192 * 9 / rows:.1f}" and "A step has 8192 rows" in report
    assert named["steps an epoch"] == f"{20 * rows / (8192 * 9):.4g}"
    assert evaluated["pictures (held out)"]["rows"] == "5" and evaluated["concepts (held out)"]["names"] == "3"
    assert "token" not in report and "The concept bank has 4 names." in report
    assert "## Missing" not in report and "## Would stop" not in report and "## Names outside" not in report
    assert "concepts: a picture of 40 x 34 pixels, of which the model gets 96 x 96: Car" in report


def test_the_sheet_has_the_parts_side_by_side(paper):
    dry_run(paper)
    with Image.open(paper / "run" / "dry_run.png") as sheet:
        assert sheet.width > 4 * 256 and sheet.width > 2 * sheet.height


def test_all_that_is_missing_is_named_at_once(paper):
    gone = {
        "reconstruction": RECIPE["mixture"][0]["folder"], "concepts": RECIPE["mixture"][1]["images"][7],
        "pictures (held out)": RECIPE["eval_mixture"][0]["root"], "concept_names": RECIPE["concept_names"][0],
    }  # fmt: skip
    for path in map(Path, gone.values()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    Path("vision", "model.safetensors").unlink()
    models = {"text_model_name_or_path": "nobody/text", "perceptual_model_name_or_path": "lpips.safetensors"}
    code, report = dry_run(paper, **models)
    missing = report.split("## Missing\n")[1].split("\n#")[0]
    assert code == 1 and all(f"- {part}: {path}\n" in missing for part, path in gone.items())
    told = (
        "vision: there are no weights in it",
        "nobody/text (AutoConfig): ",
        "lpips.safetensors: there is no such file",
    )
    assert all(f"- {line}" in missing for line in told)
    assert {line["rows"] for line in tables(report)[0].values()} == {"-"}
    code, report = dry_run(paper, mixture=[{"dataset": "emoji_scenes", "task": "concepts"}])
    assert code == 1 and "no name was looked up" in report


def test_shares_are_those_of_the_parts_that_are_there(paper):
    shutil.rmtree(RECIPE["mixture"][0]["folder"])
    code, report = dry_run(paper)
    trained, _ = tables(report)
    assert code == 1 and "Of 1 parts nothing could be read" in report
    assert trained["reconstruction"]["rows"] == "-" and trained["concepts"]["share of rows"] == "100.0 %"


@pytest.mark.parametrize(("on_error", "status"), [("skip", 0), ("raise", 1)])
def test_names_outside_the_bank_are_named_and_their_rows_bad(on_error, status, paper):
    """Of 20 pictures every third is of a car."""
    (paper / "names.txt").write_text("Tortoise\nMan\n")
    mixture = [RECIPE["mixture"][1] | {"on_error": on_error}]
    options = {"concept_names": ["names.txt"], "mixture": mixture, "eval_mixture": [], "eval_examples": 0}
    code, report = dry_run(paper, "--dry_run_rows", "3", **options)
    (line,) = tables(report)[0].values()
    assert code == status and ("has bad rows, at which training stops" in report) == bool(status)
    assert (line["names"], line["outside the bank"], line["bad rows"]) == ("3", "1", "7 of 20 looked up, 3 opened")
    assert "## Names outside the concept bank\n\n- concepts: 'Car' (7 rows)\n" in report
    assert "concepts: 7 x the name … is not among the … of the concept bank" in report


def test_rows_to_evaluate_on_are_read_as_training_reads_them(paper):
    code, report = dry_run(paper, eval_examples=50)
    stops = report.split("## Would stop the training\n")[1].split("\n#")[0]
    assert code == 1 and "eval_mixture: " in stops and "too few rows for eval_examples: 50" in stops


def test_a_stream_without_files_of_names_has_an_empty_bank(paper):
    code, report = dry_run(paper, concept_names=[], eval_mixture=[], eval_examples=0)
    assert code == 1 and "concepts: none of 20 rows is good" in report and "The concept bank has 0 names." in report
    code, report = dry_run(paper, concept_names=[], eval_mixture=[], eval_examples=0, streaming=False)
    assert code == 0 and "The concept bank has the names of all rows." in report
    with pytest.raises(ValueError, match="A stream has no end"):
        dry_run(paper, max_steps=-1)


def test_a_folder_in_place_of_a_mixture(paper):
    """Without `data.json`, some of it held out."""
    folder = RECIPE["eval_mixture"][0]["root"]
    code, report = dry_run(paper, dataset=folder, eval_examples=2, text_model_name_or_path="nobody/text")
    assert code == 0 and tables(report)[0]["pictures"]["with names"] == "0 of 5 looked up"
    assert f"pictures: {folder} (1)" in report and "The first 2 rows are held out" in report
    code, report = dry_run(paper, dataset=folder, eval_examples=5)
    assert code == 1 and "held_out: 5 leaves none of the 5 rows to train on" in report
    code, report = dry_run(paper, dataset="nowhere/at-all")
    assert code == 1 and "nowhere/at-all" in report.split("## Would stop the training\n")[1]


def test_all_rows_to_train_on_tell_the_names_of_those_to_evaluate_on(paper):
    """Where there are no files of names, and rows with others are refused."""
    objects, evaluated = RECIPE["mixture"][1], RECIPE["eval_mixture"][1] | {"on_error": "raise"}
    options = {"concept_names": [], "streaming": False, "mixture": [objects], "eval_mixture": [evaluated]}
    assert dry_run(paper, **options)[0] == 0
    labels = Path(objects["labels"])
    labels.write_text(labels.read_text().replace("/m/1,1", "/m/2,1"))
    code, report = dry_run(paper, **options)
    assert code == 1 and "the name 'Tortoise' is not among the 2 of the concept bank" in report


def test_a_run_may_go_on_from_a_setok_and_need_photographs(setok_folder, tmp_path, capsys, monkeypatch):
    def status(folder: Path, **overrides) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main([str(tiny_recipe(folder, **overrides)), "--dry_run", "--dry_run_rows", "2"])
        return end.value.code, capsys.readouterr().out

    code, report = status(tmp_path / "one", model_name_or_path=str(setok_folder))
    assert code == 0 and "of which the model gets 24 x 24" in report
    BertConfig().save_pretrained(tmp_path / "other")
    code, report = status(tmp_path / "two", model_name_or_path=str(tmp_path / "other"))
    assert code == 1 and "holds a model of type 'bert', not 'setok'" in report
    monkeypatch.chdir(tmp_path)
    code, report = status(tmp_path / "three", photo_examples=8, image_size=64)
    assert code == 1 and "python -m training.data.photo_scenes.fetch" in report.split("## Missing\n")[1]
    code, report = status(tmp_path / "four", photo_examples=8)
    assert code == 1 and "image_size must be at least 64" in report.split("## Would stop the training\n")[1]


def test_scenes_are_drawn(tmp_path, capsys):
    recipe = tiny_recipe(tmp_path)
    with pytest.raises(SystemExit) as end:
        main([str(recipe), "--dry_run", "--dry_run_rows", "4"])
    ((line,),) = (table.values() for table in tables(capsys.readouterr().out))
    assert end.value.code == 0 and (line["rows"], line["pictures"]) == ("made on demand", "32 x 32")
    assert line["with names"] == "4 of 4 opened" and line["steps an epoch"] == "16"
    assert not (tmp_path / "run" / "trainer_state.json").exists()
