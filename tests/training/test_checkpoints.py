"""Runs that are finished, and checkpoints that are not whole: what goes on, and what is said."""

import io
import json
import logging
import pickle
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tqdm.auto import tqdm
from transformers import TrainingArguments

from tests.script_testing import write_recipe
from tests.training.test_train_setok import tiny_recipe
from training import finetune_setokim, pretrain_setokim, train_setok
from training.checkpoints import last_checkpoint, refuse_damaged_files, train_on

STAGES = ("setok", "encoder", "pretrain", "lora")
SLOW_STAGES = (pytest.param(stage, marks=pytest.mark.slow) for stage in ("detokenizer", "finetune"))
SCRIPTS = {"pretrain": pretrain_setokim, "finetune": finetune_setokim, "lora": finetune_setokim}
STATE = "trainer_state.json"


@pytest.fixture
def run_stage(setokim_recipe):
    """Runs a stage in a folder, as its script does."""

    def run(stage: str, folder: Path, **options):
        options = {"save_steps": 2, "eval_examples": 0, "adversarial_weight": 0.1, "discriminator_width": 8} | options
        if stage in SCRIPTS:
            options = {name: value for name, value in options.items() if "adv" not in name and "discr" not in name}
            return SCRIPTS[stage].main([str(setokim_recipe(stage, folder, **options))])
        if stage == "encoder":
            options |= {"encoder_only": True, "adversarial_weight": 0.0}
        elif stage == "detokenizer":
            train_setok.main([str(tiny_recipe(folder / "start", max_steps=1))])
            options |= {"model_name_or_path": str(folder / "start" / "run"), "config": None}
            options |= {"trainable": ["detokenizer"]}
        return train_setok.main([str(tiny_recipe(folder, **options))])

    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("stage", [*STAGES, *SLOW_STAGES])
def test_the_command_of_a_finished_run_trains_nothing(run_stage, stage, tmp_path, caplog):
    """And writes the final model, bit for bit as it was, where it is missing."""
    run = tmp_path / "run"
    run_stage(stage, tmp_path, max_steps=3)
    shutil.rmtree(run / "runs", ignore_errors=True)
    before = contents(run)
    with caplog.at_level("INFO"):
        trainer = run_stage(stage, tmp_path, max_steps=3)
    assert "This run is finished" in caplog.text and "Nothing was trained" in caplog.text
    assert trainer.state.global_step == 3
    assert contents(run) == before

    for file in [path for path in run.iterdir() if path.is_file()]:  # killed after its last checkpoint
        file.unlink()
    run_stage(stage, tmp_path, max_steps=3)
    weights = "adapter_model.safetensors" if stage == "lora" else "model.safetensors"
    torch.testing.assert_close(load_file(run / weights), before_tensors(before[weights], tmp_path), rtol=0, atol=0)
    assert {path.name for path in run.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-3"}


def before_tensors(data: bytes, folder: Path) -> dict[str, torch.Tensor]:
    (folder / "before.safetensors").write_bytes(data)
    return load_file(folder / "before.safetensors")


@pytest.mark.parametrize("epochs", [0.7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_run_by_epochs_is_finished_too(run_stage, tmp_path, epochs, caplog):
    options = {"max_steps": -1, "num_train_epochs": epochs, "train_examples": 20, "save_steps": 1}
    steps = run_stage("finetune", tmp_path, **options).state.global_step
    assert steps == (5 if epochs == 1 else 4)
    with caplog.at_level("INFO"):
        trainer = run_stage("finetune", tmp_path, **options)
    assert "This run is finished" in caplog.text and trainer.state.global_step == steps
    trainer = run_stage("finetune", tmp_path, **options | {"num_train_epochs": 2})
    assert trainer.state.global_step == 10  # a longer run goes on


def test_a_longer_run_writes_its_own_final_model(run_stage, tmp_path, caplog):
    """The model of the shorter one, which is still there, is not taken for it."""
    run_stage("finetune", tmp_path, max_steps=2)
    run_stage("finetune", tmp_path, max_steps=4)
    expected = load_file(tmp_path / "run" / "model.safetensors")
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    run_stage("finetune", tmp_path, max_steps=2)
    kept = contents(tmp_path / "run")
    run_stage("finetune", tmp_path, max_steps=4)
    for name in ("model.safetensors", STATE):  # killed after checkpoint-4
        (tmp_path / "run" / name).write_bytes(kept[name])
    with caplog.at_level("INFO"):
        run_stage("finetune", tmp_path, max_steps=4)
    assert "lacks the final model" in caplog.text
    torch.testing.assert_close(load_file(tmp_path / "run" / "model.safetensors"), expected, rtol=0, atol=0)


def test_the_last_checkpoint_is_the_newest_that_is_whole(tmp_path, caplog):
    args = TrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True)
    assert last_checkpoint(args) is None
    files = {
        "90": '{"global_step": 90}', "100": '{"global_step": 100}', "110": '{"global_step": 11', "120": "", "130": None,
        "140": "[]", "150": "{}", "160": '{"global_step": 90}', "170": '{"global_step": "170"}', "best": "{}",
    }  # fmt: skip
    for step, state in files.items():
        folder = tmp_path / "run" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()
        if state is not None:
            (folder / STATE).write_text(state)
    with caplog.at_level("WARNING"):
        assert last_checkpoint(args) == str(tmp_path / "run" / "checkpoint-100")
    assert [int(record.args[0].name[11:]) for record in caplog.records] == [170, 160, 150, 140, 120, 110]
    args.resume_from_checkpoint = str(tmp_path / "run" / "checkpoint-90")
    assert last_checkpoint(args) == args.resume_from_checkpoint
    args.resume_from_checkpoint = "elsewhere"
    with pytest.raises(ValueError, match="resume_from_checkpoint=elsewhere has no trainer_state.json"):
        last_checkpoint(args)


@pytest.fixture(scope="module")
def started(tmp_path_factory) -> Path:
    """A run of stage 0 with its checkpoint after two steps."""
    folder = tmp_path_factory.mktemp("started")
    train_setok.main([str(tiny_recipe(folder, max_steps=2, save_steps=2))])
    return folder / "run" / "checkpoint-2"


@pytest.fixture
def damaged(started, tmp_path):
    """A copy of the checkpoint, to be damaged, and what goes on from it."""
    checkpoint = shutil.copytree(started, tmp_path / "run" / "checkpoint-2")

    def go_on(**options):
        return train_setok.main([str(tiny_recipe(tmp_path, max_steps=3, save_steps=2, **options))])

    return checkpoint, go_on


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_without_a_state_is_refused_unless_it_is_named(damaged, name, caplog):
    checkpoint, go_on = damaged
    (checkpoint / name).unlink()
    with pytest.raises(ValueError, match=f"checkpoint-2 lacks {name}(.|\\n)*or delete the checkpoint"):
        go_on()
    with caplog.at_level("WARNING"):
        assert go_on(resume_from_checkpoint=str(checkpoint)).state.global_step == 3
    assert f"lacks ['{name}']" in caplog.text


def test_a_checkpoint_of_the_model_alone_is_told(tmp_path):
    recipe = tiny_recipe(tmp_path, max_steps=2, save_steps=2, save_only_model=True)
    train_setok.main([str(recipe)])
    with pytest.raises(ValueError, match="written with save_only_model, or cleaned: it holds the model alone"):
        train_setok.main([str(recipe), "--max_steps", "3"])


def test_a_checkpoint_of_several_processes_is_told(damaged):
    checkpoint, go_on = damaged
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    with pytest.raises(ValueError, match="It has rng_state_0.pth: the number of processes was another"):
        go_on()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors"])
@pytest.mark.parametrize("how", ["half", "empty", "pickle", "other"])
def test_a_damaged_file_is_named(damaged, name, how):
    checkpoint, _ = damaged
    refuse_damaged_files(checkpoint)
    file = checkpoint / name
    data = {
        "half": file.read_bytes()[: file.stat().st_size // 2],
        "empty": b"",
        "pickle": pickle.dumps({"a stranger's": Path("file")}),
        "other": (checkpoint / ("scheduler.pt" if name == "optimizer.pt" else "optimizer.pt")).read_bytes(),
    }[how]
    file.write_bytes(data)
    with pytest.raises(ValueError, match=rf"checkpoint-2/{name} (is damaged|does not hold)(.|\n)*(?i:delete)"):
        refuse_damaged_files(checkpoint)


def test_a_run_does_not_go_on_from_a_damaged_file(damaged):
    checkpoint, go_on = damaged
    (checkpoint / "optimizer.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="checkpoint-2/optimizer.pt is damaged"):
        go_on()


def test_states_of_another_run_are_told(damaged):
    checkpoint, go_on = damaged
    with pytest.raises(ValueError, match="checkpoint-2: the state of its optimizer or schedule does not fit"):
        go_on(trainable=["detokenizer"])
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)
    state["state"][0]["exp_avg"] = torch.zeros(3, 3, 3)
    torch.save(state, checkpoint / "optimizer.pt")
    with pytest.raises(ValueError, match=r"optimizer.pt has a state of shape \(3, 3, 3\)"):
        go_on()


def test_weights_of_another_model_are_told(damaged, setok_folder):
    checkpoint, go_on = damaged
    shutil.copy(setok_folder / "model.safetensors", checkpoint)
    with pytest.raises(ValueError, match="checkpoint-2: its weights do not fit the model"):
        go_on()


def test_a_run_goes_on_around_an_encoder_that_is_written_by_other_names(tmp_path):
    """DINOv2's weights in files have other names than in transformers' model: a run goes on from them exactly."""

    def run(name: str, max_steps: int) -> Path:
        recipe = yaml.safe_load(tiny_recipe(tmp_path / name).read_text())
        encoder = {"model_type": "dinov2", "hidden_size": 32, "mlp_ratio": 2, "num_hidden_layers": 1, "image_size": 32}
        recipe["config"]["vision_config"] = encoder | {"num_attention_heads": 2, "patch_size": 4}
        recipe |= {"max_steps": max_steps, "lr_scheduler_type": "constant"}
        train_setok.main([str(write_recipe(tmp_path / name, recipe))])
        return tmp_path / name / "run" / "model.safetensors"

    run("stopped", max_steps=2)
    stopped, whole = load_file(run("stopped", max_steps=4)), load_file(run("whole", max_steps=4))
    assert any("attention.attention.query" in name for name in whole)
    assert stopped.keys() == whole.keys() and all(torch.equal(stopped[name], whole[name]) for name in whole)


def test_an_adapter_of_another_run_is_told(run_stage, tmp_path):
    run_stage("lora", tmp_path, max_steps=2)
    with pytest.raises(ValueError, match="adapter_model.safetensors does not hold a whole adapter of this run"):
        run_stage("lora", tmp_path, max_steps=4, lora={"r": 4, "target_modules": ["q_proj"]})


def test_what_each_engine_leaves(damaged, tmp_path):
    """DeepSpeed keeps its state in a folder, FSDP the optimizer's in another file."""
    checkpoint, _ = damaged
    trainer = train_setok.main([str(tiny_recipe(tmp_path / "other", max_steps=1))])
    trainer.is_deepspeed_enabled = True
    assert trainer.state_files() == ["global_step*", "rng_state.pth"]
    trainer.is_deepspeed_enabled, trainer.is_fsdp_enabled = False, True
    assert trainer.state_files() == ["optimizer*", "scheduler.pt", "rng_state.pth"]
    assert json.loads((checkpoint / STATE).read_text())["global_step"] == 2


def test_lines_stand_above_the_progress_bar_and_not_in_it(monkeypatch):
    """Of the user's logger, of a library's with a handler of its own, and warnings."""
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    ours, library = logging.StreamHandler(screen), logging.StreamHandler(screen)
    monkeypatch.setattr(logging.root, "handlers", [ours])
    library_logger = logging.getLogger("a_library")
    monkeypatch.setattr(library_logger, "handlers", [library])
    monkeypatch.setattr(library_logger, "propagate", False)

    def train(resume_from_checkpoint):
        with tqdm(total=2, file=screen, mininterval=0) as bar:
            bar.update()
            logging.getLogger("training").warning("a line of ours")
            library_logger.warning("a line of a library")
            warnings.warn("a warning", stacklevel=1)
            bar.update()

    args = SimpleNamespace(run_name=None, output_dir="runs/mine")
    assert train_on(SimpleNamespace(args=args, train=train, was_finished=lambda checkpoint: False), None)
    shown = [line.rpartition("\r")[2] for line in screen.getvalue().split("\n")]  # what a carriage return leaves
    assert shown.count("a line of ours") == shown.count("a line of a library") == 1
    assert [line for line in shown if "a warning" in line and "UserWarning" in line and "it/s" not in line]
    assert (logging.root.handlers, library_logger.handlers) == ([ours], [library])
