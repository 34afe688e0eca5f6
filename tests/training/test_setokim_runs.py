"""Runs of both stages that are killed and go on, and runs of several processes: as if nothing had happened."""

import pytest
import torch
from safetensors.torch import load_file

from tests.script_testing import (
    assert_same_runs,
    copy_checkpoint,
    finish,
    kill_after_a_checkpoint,
    launch,
    losses,
)
from training import finetune_setokim, pretrain_setokim
from training.run_summary import read_stages

SCRIPTS = {"pretrain": pretrain_setokim, "finetune": finetune_setokim, "lora": finetune_setokim}
WEIGHTS = {"pretrain": "model.safetensors", "finetune": "model.safetensors", "lora": "adapter_model.safetensors"}
stages = pytest.mark.parametrize("stage", SCRIPTS)


def script(stage: str) -> str:
    return SCRIPTS[stage].__name__.split(".")[-1] + ".py"


@stages
def test_a_run_goes_on_exactly_from_its_last_checkpoint(setokim_recipe, tmp_path, stage):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    main = SCRIPTS[stage].main
    main([str(setokim_recipe(stage, whole))])
    copy_checkpoint(whole / "run", 2, killed)
    assert main([str(setokim_recipe(stage, killed))]).state.global_step == 4
    assert_same_runs(killed / "run", whole / "run", WEIGHTS[stage])


@pytest.mark.slow
@stages
def test_a_killed_process_goes_on_exactly(setokim_recipe, tmp_path, stage):
    options = {"max_steps": 60, "save_steps": 10}
    finish(launch(script(stage), setokim_recipe(stage, tmp_path / "whole", **options)))
    recipe = setokim_recipe(stage, tmp_path / "killed", **options)
    kill_after_a_checkpoint(launch(script(stage), recipe), tmp_path / "killed" / "run")
    finish(launch(script(stage), recipe))
    assert_same_runs(tmp_path / "killed" / "run", tmp_path / "whole" / "run", WEIGHTS[stage])


@pytest.mark.slow
@stages
@pytest.mark.parametrize("find_unused", [True, False])
def test_two_processes_train_as_one_that_accumulates(setokim_recipe, setokim_folder, tmp_path, stage, find_unused):
    """With a row for each, some steps have text on one process, pictures or a mask on the other. Under plain gradient
    descent what differs by rounding stays small."""
    options = {
        "model_name_or_path": str(setokim_folder), "config": {"diffusion_loss_weight": 0.0}, "optim": "sgd",
        "per_device_train_batch_size": 1, "max_steps": 6, "save_strategy": "no",
    }  # fmt: skip
    if stage == "pretrain":
        options["trainable"] = ["model.multi_modal_projector", "model.language_model", "diffusion_head", "mask_decoder"]
        options |= {"setok_model_name_or_path": None, "text_config": None}
    if stage == "lora":
        options["lora"] = {"r": 4, "lora_alpha": 8}
    one, two = tmp_path / "one", tmp_path / "two"
    finish(launch(script(stage), setokim_recipe(stage, one, gradient_accumulation_steps=2, **options)))
    recipe = setokim_recipe(stage, two, ddp_find_unused_parameters=find_unused, **options)
    finish(launch(script(stage), recipe, processes=2))
    for single, double in zip(losses(one / "run"), losses(two / "run"), strict=True):
        for entry in (single, double):
            entry.pop("diffusion_loss", None)  # each process draws its own noise
        assert double == pytest.approx(single, rel=1e-3)
    single, double = (load_file(folder / "run" / WEIGHTS[stage]) for folder in (one, two))
    for name, tensor in single.items():
        torch.testing.assert_close(double[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@stages
def test_two_processes_show_samples_once(setokim_recipe, tmp_path, monkeypatch, stage):
    """The first answers while the second waits; both train as they do without."""
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    options = {"eval_examples": 2, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 2, "save_strategy": "no"}
    for folder, sample_rows in (("with", 4), ("without", 0)):
        recipe = setokim_recipe(
            stage, tmp_path / folder, report_to=["tensorboard", "trackio"], sample_rows=sample_rows, **options
        )
        finish(launch(script(stage), recipe, processes=2))
    assert losses(tmp_path / "with" / "run") == losses(tmp_path / "without" / "run")
    found = sorted(path.name for path in (tmp_path / "with" / "run" / "samples").iterdir())
    assert found == [f"step-{step:06d}.{suffix}" for step in (1, 2) for suffix in ("md", "png")]
    assert not (tmp_path / "without" / "run" / "samples").exists()
    written = b"".join(path.read_bytes() for path in (tmp_path / "trackio").glob("*.db*"))
    assert b"answers" in written and b"| request | answer | expected |" in written
    assert len(list((tmp_path / "trackio" / "media").rglob("*.png"))) == 2
    (summary,) = read_stages(tmp_path / "with" / "run")[-1:]
    assert (summary["rows"], summary["processes"]) == (2 * 4 * 2, 2)
