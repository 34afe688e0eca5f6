"""Runs that are killed at any moment, also while a checkpoint is written: they go on bit for bit."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.script_testing import assert_same_runs
from tests.training.conftest import mixture, processor, setok_folder, setokim_folder, setokim_recipe  # noqa: F401
from tests.training.test_train_setok import tiny_recipe
from training import finetune_setokim, pretrain_setokim, train_setok
from training.checkpoints import refuse_damaged_files

pytestmark = pytest.mark.slow

SCRIPTS = {
    "setok": train_setok, "pretrain": pretrain_setokim, "finetune": finetune_setokim, "lora": finetune_setokim,
}  # fmt: skip
MOMENTS = 10
OPTIONS = {"max_steps": 12, "save_steps": 3, "save_total_limit": 2, "dataloader_num_workers": 0}


def start(stage: str, recipe: Path) -> multiprocessing.Process:
    """A process of its own, which need not import again what this one has."""
    process = multiprocessing.get_context("fork").Process(target=SCRIPTS[stage].main, args=([str(recipe)],))
    process.start()
    return process


def kill_after(process: multiprocessing.Process, seconds: float) -> None:
    """Unless it ends before."""
    process.join(seconds)
    kill(process)


def kill_while_writing(process: multiprocessing.Process, run: Path, number: int, seconds: float) -> None:
    """So many seconds after the folder of its checkpoint of this number appeared."""
    folder = run / f"checkpoint-{number}"
    while not folder.exists() and process.is_alive():
        time.sleep(0.0005)
    time.sleep(seconds)
    kill(process)


def kill(process: multiprocessing.Process) -> None:
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)


def left_by(run: Path) -> str:
    """What a killed run left, for the report."""
    told = []
    for folder in sorted(run.glob("checkpoint-*")):
        is_whole = (folder / "trainer_state.json").exists()
        told.append(folder.name[11:] + ("" if is_whole else f" ({len(list(folder.iterdir()))} files, not its end)"))
    return f"{', '.join(told) or 'no checkpoint'}{'; final' if (run / 'trainer_state.json').exists() else ''}"


@pytest.mark.parametrize("stage", SCRIPTS)
def test_a_run_killed_at_any_moment_goes_on_exactly(setokim_recipe, tmp_path, stage):  # noqa: F811
    """Ten seeded moments for each stage, in turn anywhere in the run and within the writing of a checkpoint."""

    def write(folder: Path) -> Path:
        if stage == "setok":
            return tiny_recipe(folder, adversarial_weight=0.1, discriminator_width=8, **OPTIONS)
        return setokim_recipe(stage, folder, **OPTIONS)

    weights = "adapter_model.safetensors" if stage == "lora" else "model.safetensors"
    began = time.monotonic()
    process = start(stage, write(tmp_path / "whole"))
    process.join()
    duration = time.monotonic() - began
    assert process.exitcode == 0
    whole = tmp_path / "whole" / "run"

    source, interrupted = random.Random(f"{stage} killed"), 0
    for moment in range(MOMENTS):
        folder = tmp_path / f"killed-{moment}"
        recipe, run = write(folder), folder / "run"
        process = start(stage, recipe)
        if moment % 2:
            number, seconds = source.choice(range(3, 13, 3)), source.uniform(0, 0.06)
            kill_while_writing(process, run, number, seconds)
            told = f"{seconds:.3f} s after checkpoint-{number} was begun"
        else:
            seconds = source.uniform(0, duration)
            kill_after(process, seconds)
            told = f"after {seconds:.2f} of {duration:.2f} s"
        print(f"\n{stage}, killed {told}: left {left_by(run)}", end="", flush=True)
        interrupted += process.exitcode != 0
        process = start(stage, recipe)
        process.join()
        assert process.exitcode == 0
        assert_same_runs(run, whole, weights)
        assert json.loads((run / "trainer_state.json").read_text())["global_step"] == 12
        for checkpoint in run.glob("checkpoint-12"):
            refuse_damaged_files(checkpoint)
            assert load_file(checkpoint / weights).keys() == load_file(run / weights).keys()
        shutil.rmtree(folder)
    assert interrupted >= MOMENTS // 2, "most runs ended before they could be killed"
