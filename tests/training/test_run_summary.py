"""What a run took is told beside its model, over all parts of the run and all runs before it."""

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers

from tests.training.test_train_setok import tiny_recipe
from training.run_summary import SUMMARY, RunSummary, machine_name, read_stages
from training.train_setok import main


def arguments(folder: Path, processes: int = 1) -> SimpleNamespace:
    return SimpleNamespace(output_dir=str(folder), world_size=processes, device=torch.device("cpu"))


def test_rows_of_all_processes_count(tmp_path):
    summary = RunSummary(arguments(tmp_path / "mine", processes=2))
    summary.count({"input_ids": torch.zeros(4, 9), "pixel_values": torch.zeros(7, 3, 2, 2)})  # seven pictures in four
    summary.count({"patch_embeddings": torch.zeros(3, 5, 8)})
    summary.count({"pixel_values": torch.zeros(2, 3, 2, 2)})
    stage = summary.stage(steps=3)
    assert (stage["name"], stage["steps"], stage["rows"], stage["processes"]) == ("mine", 3, 18, 2)
    assert (stage["torch"], stage["transformers"]) == (torch.__version__, transformers.__version__)
    assert stage["machines"] == [machine_name(summary.args)] and "cores" in stage["machines"][0]
    assert str(tmp_path) not in json.dumps(stage)


def test_a_part_adds_to_what_was_before_it(tmp_path):
    checkpoint = tmp_path / "run" / "checkpoint-2"
    first = RunSummary(arguments(tmp_path / "run"))
    first.count({"input_ids": torch.zeros(4, 9)})
    first.start -= 100
    first.write(checkpoint, steps=2)
    (written,) = read_stages(checkpoint)
    assert written["seconds"] == pytest.approx(100, abs=5)
    written["machines"] = ["another"]
    (checkpoint / SUMMARY).write_text(json.dumps({"stages": [{"an": "earlier one"} | written, written]}))
    second = RunSummary(arguments(tmp_path / "run"), str(checkpoint), step=2)
    second.count({"input_ids": torch.zeros(4, 9)})
    second.start -= 50
    stage = second.stage(steps=3)
    assert stage["rows"] == 8 and stage["seconds"] == pytest.approx(150, abs=10) and "first_step" not in stage
    assert stage["machines"] == ["another", machine_name(second.args)]


def test_what_was_not_counted_is_told(tmp_path, caplog):
    checkpoint = tmp_path / "checkpoint-7"
    checkpoint.mkdir()
    with caplog.at_level(logging.WARNING):
        summary = RunSummary(arguments(tmp_path), str(checkpoint), step=7)
    assert "rows and time will be those of the steps after it" in caplog.text
    assert summary.stage(steps=9)["first_step"] == 7
    summary.write(tmp_path / "checkpoint-8", steps=8)
    assert RunSummary(arguments(tmp_path), str(tmp_path / "checkpoint-8"), step=8).stage(steps=9)["first_step"] == 7


@pytest.mark.parametrize("content", ["{", "[]", '{"stages": [{}]}', '{"stages": 3}', "\udcff"])
def test_a_damaged_summary_is_refused_before_the_training(tmp_path, content):
    (tmp_path / SUMMARY).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=f"{SUMMARY} is damaged"):
        RunSummary(arguments(tmp_path), made_from=[None, str(tmp_path)])


def test_a_run_that_goes_on_and_the_next_stage(tmp_path):
    """Ten rows in batches of eight: two steps see ten rows."""
    options = {"train_examples": 10, "per_device_train_batch_size": 8, "max_steps": 5, "save_steps": 2}
    recipe, run = tiny_recipe(tmp_path, **options), tmp_path / "run"
    main([str(recipe)])
    (whole,) = read_stages(run)
    assert (whole["name"], whole["steps"], whole["rows"]) == ("run", 5, 28)
    (part,) = read_stages(run / "checkpoint-4")
    assert (part["steps"], part["rows"]) == (4, 20) and 0 < part["seconds"] <= whole["seconds"]
    for file in ("checkpoint-5", "model.safetensors", SUMMARY):
        path = run / file
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    main([str(recipe)])
    (again,) = read_stages(run)
    assert (again["steps"], again["rows"]) == (5, 28) and again["seconds"] > part["seconds"]
    main([str(recipe)])  # finished: it trains nothing, and leaves what is there
    assert read_stages(run) == [again]

    second = {"model_name_or_path": str(run), "max_steps": 1, "save_strategy": "no", "output_dir": str(tmp_path / "b")}
    main([str(tiny_recipe(tmp_path, **options | second))])
    earlier, stage = read_stages(tmp_path / "b")
    assert earlier == again and (stage["name"], stage["rows"]) == ("b", 8)
