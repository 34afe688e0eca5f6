"""Runs that are killed at any moment, also while a checkpoint is written, go on bit for bit; from checkpoints that were
damaged they do not go on, and say why."""

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

from tests.robustness.campaign import campaign
from tests.script_testing import assert_same_runs
from tests.training.conftest import mixture, processor, setok_folder, setokim_folder, setokim_recipe  # noqa: F401
from tests.training.test_train_setok import tiny_recipe
from training import finetune_setokim, pretrain_setokim, train_setok
from training.checkpoints import last_checkpoint, refuse_damaged_files, step_of
from training.loading import refuse_wrong_index

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


STATES = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "adversarial.pt", "model.safetensors", "trainer_state.json")


def damage(folder: Path, name: str, source: random.Random) -> tuple[str, bytes]:
    """A file of a checkpoint as it should not be; what was done, and what the file then holds."""
    whole = (folder / name).read_bytes()
    at = source.randrange(len(whole))
    other = source.choice([file for file in STATES if file != name])
    ways = {
        f"cut at {at} of {len(whole)}": whole[:at],
        "empty": b"",
        "random bytes": source.randbytes(source.randrange(1, 2000)),
        "zeros": bytes(len(whole)),
        f"{other} in its place": (folder / other).read_bytes(),
        "bytes before it": source.randbytes(7) + whole,
        "a list": b"[1, 2]",
        "a pickle": b"\x80\x04]\x94(K\x01K\x02e.",
    }
    return source.choice(sorted(ways.items()))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    options = {"max_steps": 2, "save_steps": 1, "adversarial_weight": 0.1, "discriminator_width": 8}
    train_setok.main([str(tiny_recipe(folder, **options))])
    return folder / "run" / "checkpoint-2"


def test_damaged_checkpoints(checkpoint, tmp_path):
    """Of any file the damage is told with the file's name; a state of the trainer's, written last, is left out."""
    source, copy = random.Random(5), tmp_path / "run" / "checkpoint-2"
    shutil.copytree(checkpoint.parent / "checkpoint-1", tmp_path / "run" / "checkpoint-1")
    args = train_setok.SetokTrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True)

    def inspect() -> str:
        found = last_checkpoint(args)
        refuse_damaged_files(Path(found))
        return found

    with campaign("damaged checkpoints", least=400) as cases:
        for number in range(400):
            name = STATES[number % len(STATES)]
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(checkpoint, copy)
            how, data = damage(copy, name, source)
            (copy / name).write_bytes(data)
            is_state = name == "trainer_state.json"
            cases.run(
                f"{name}: {how}",
                inspect,
                check=lambda found, is_state=is_state: is_state and found.endswith("checkpoint-1"),
                names=[name],
                must_refuse=not is_state,
            )


def test_runs_from_damaged_checkpoints(checkpoint, tmp_path):
    """The same by the scripts, also with files deleted: none goes on."""
    source = random.Random(6)
    options = {"max_steps": 3, "save_steps": 2, "adversarial_weight": 0.1, "discriminator_width": 8}
    with campaign("runs from damaged checkpoints", least=20) as cases:
        for number in range(20):
            name = STATES[number % (len(STATES) - 1)]
            folder = tmp_path / str(number)
            copy = shutil.copytree(checkpoint, folder / "run" / "checkpoint-2")
            how, data = damage(copy, name, source) if number % 2 else ("deleted", b"")
            (copy / name).write_bytes(data) if number % 2 else (copy / name).unlink()
            cases.run(
                f"{name}: {how}",
                lambda folder=folder: train_setok.main([str(tiny_recipe(folder, **options))]),
                names=[name, "Can't find a valid checkpoint"],
                must_refuse=True,
            )
            assert step_of(folder / "run") is None


def test_indices_of_shards(tmp_path):
    """Only mappings to files beside them are taken."""
    source, index = random.Random(7), tmp_path / "model.safetensors.index.json"
    shard = "model-00001-of-00002.safetensors"
    (tmp_path / shard).touch()
    (tmp_path.parent / shard).touch()
    files = (shard, "missing.safetensors", f"../{shard}", f"{tmp_path}/{shard}", "", ".", "..", 5, None, [shard], {})
    with campaign("indices of shards", least=200) as cases:
        for number in range(200):
            chosen = [source.choice(files) for _ in range(source.randrange(4))]
            text = json.dumps({"weight_map": dict(zip("abcd", chosen, strict=False))})
            if number % 4 == 0:
                text = text[: source.randrange(len(text))]
            elif number % 4 == 1:
                text = json.dumps(source.choice([[], {}, None, 3, "x", {"weight_map": chosen}, {"weight_map": 2}]))
            index.write_text(text)
            is_right = number % 4 > 1 and chosen and all(file == shard for file in chosen)
            cases.run(text, lambda: refuse_wrong_index(index), names=[str(index)], must_refuse=not is_right)
