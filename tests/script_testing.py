"""Training scripts as a user runs them: a recipe, one or more processes, and what they leave in the output folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]


def write_recipe(folder: Path, values: dict) -> Path:
    """A recipe of a short run on CPU, which logs every step and ends in `folder / "run"`."""
    recipe = {
        "output_dir": str(folder / "run"),
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "eval_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        **values,
    }
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def environment() -> dict[str, str]:
    """Variables of a process on one thread that finds the packages of this project."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def launch(script: str, recipe: Path, *arguments: str, processes: int = 1) -> subprocess.Popen:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.Popen(
        [*launcher, str(ROOT / "training" / script), str(recipe), *arguments],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> None:
    try:
        output, _ = process.communicate(timeout=300)
    finally:  # not to leave processes that wait for each other
        process.terminate()
    assert process.returncode == 0, output[-3000:]


def kill_after_a_checkpoint(process: subprocess.Popen, run: Path) -> None:
    """Kills a process as soon as the first checkpoint is whole."""
    while not any(state.stat().st_size for state in run.glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (run / "trainer_state.json").exists(), "the run ended before it could be killed"


def copy_checkpoint(run: Path, step: int, folder: Path) -> None:
    """Leaves in `folder / "run"` what a run that was killed after this step would have left."""
    shutil.copytree(run / f"checkpoint-{step}", folder / "run" / f"checkpoint-{step}")


def losses(run: Path) -> list[dict[str, float]]:
    """All losses of every step."""
    history = json.loads((run / "trainer_state.json").read_text())["log_history"]
    return [{k: v for k, v in entry.items() if "loss" in k} for entry in history if "loss" in entry]


def assert_same_runs(run: Path, expected: Path, weights: str = "model.safetensors") -> None:
    """The same weights, bit for bit, and the same losses: as they are told, a sum over pixels may be rounded in another
    order, since its tensor lies elsewhere in the memory of another process."""
    for entry, other in zip(losses(run), losses(expected), strict=True):
        assert entry == pytest.approx(other, rel=1e-6)
    tensors = load_file(run / weights)
    for name, tensor in load_file(expected / weights).items():
        torch.testing.assert_close(tensors.pop(name), tensor, rtol=0, atol=0)
    assert not tensors
