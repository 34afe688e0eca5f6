"""Training on streams of files: killed and resumed, the same rows and the same losses, bit for bit."""

import importlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.row_testing import plain
from tests.script_testing import ROOT, environment, finish, launch
from training.data import EmojiScenes, SceneConfig
from training.data.entries import open_row
from training.data.sources import stream_part

SIZE = SceneConfig(image_size=24)


def write_parquet(folder: Path, scenes: EmojiScenes, num_files: int) -> dict:
    folder.mkdir()
    rows = scenes.to_dataset()
    for file in range(num_files):
        rows.shard(num_files, file).to_parquet(folder / f"train-{file:05d}-of-{num_files:05d}.parquet")
    return {"dataset": "parquet", "data_files": str(folder / "*.parquet")}


def write_tar(folder: Path, scenes: EmojiScenes, num_files: int) -> dict:
    """As img2dataset writes pictures with captions."""
    folder.mkdir()
    for file in range(num_files):
        with tarfile.open(folder / f"{file:05d}.tar", "w") as tar:
            for number in range(file, len(scenes), num_files):
                row, picture = scenes[number], io.BytesIO()
                row["images"][0].save(picture, "PNG")
                caption = row["messages"][-1]["content"][0]["text"]
                for ending, content in (("png", picture.getvalue()), ("txt", caption.encode())):
                    member = tarfile.TarInfo(f"{number:09d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    columns = {"image": "png", "caption": "txt"}
    return {"dataset": "webdataset", "data_files": str(folder / "*.tar"), "columns": columns}


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> list[dict]:
    """Rows of every loss as Parquet, captions as tar, a folder with a text that is too long and a bad row, scenes."""
    root = tmp_path_factory.mktemp("data")
    (root / "talk" / "images").mkdir(parents=True)
    talk = [{"instruction": "Name a bird.", "input": "", "output": "An owl."}, {"text": "An owl sees all. " * 400}]
    (root / "talk" / "data.json").write_text(json.dumps([*talk, {"image": "lost.png", "caption": "Lost."}]))
    tasks = ("referring", "text_to_image", "caption", "text_only")
    return [
        {"name": "table", **write_parquet(root / "table", EmojiScenes("train", 24, SIZE, tasks=tasks), 4)},
        {"name": "pairs", **write_tar(root / "pairs", EmojiScenes("train", 24, SIZE, tasks=("caption",)), 3)},
        {"name": "talk", "dataset": str(root / "talk"), "on_error": "skip", "weight": 3},
        {"dataset": "emoji_scenes", "task": "caption", "image_size": 24},
    ]


def test_files_give_the_rows_that_were_written(parts):
    written = EmojiScenes("train", 24, SIZE, tasks=("referring", "text_to_image", "caption", "text_only"))
    read = [plain(open_row(lazy)) for lazy in stream_part(parts[0], "train").rows]
    order = [row for file in range(4) for row in range(6 * file, 6 * file + 6)]  # `shard` cuts in order
    assert read == [plain(written[row]) for row in order]
    captions = EmojiScenes("train", 24, SIZE, tasks=("caption",))
    order = [number for file in range(3) for number in range(file, 24, 3)]
    for number, lazy in zip(order, stream_part(parts[1], "train").rows, strict=True):
        row, expected = open_row(lazy), captions[number]
        assert row["images"][0].tobytes() == expected["images"][0].tobytes()
        assert row["messages"][-1] == expected["messages"][-1] and row["task"] == "caption"
        assert lazy["origin"].endswith(f"{number:09d})") and ".tar, row" in lazy["origin"]


@pytest.mark.parametrize(("stage", "workers"), [("pretrain", 2), ("finetune", 0), ("lora", 1)])
def test_a_run_goes_on_bit_for_bit(stage, workers, parts, setokim_recipe, tmp_path):
    main = importlib.import_module(f"training.{'pretrain' if stage == 'pretrain' else 'finetune'}_setokim").main
    runs = []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        recipe = setokim_recipe(
            stage, folder, mixture=parts, streaming=True, shuffle_buffer=8, max_steps=6, save_steps=3, logging_steps=1,
            per_device_train_batch_size=4, dataloader_num_workers=workers, max_length=300, long_rows="cut",
            pack_rows=stage == "finetune",
            **({"tokenizer_rows": 100} if stage == "pretrain" else {}),
        )  # fmt: skip
        if runs:
            shutil.copytree(tmp_path / "whole" / "run" / "checkpoint-3", folder / "run" / "checkpoint-3")
        main([str(recipe)])
        runs.append(folder / "run")
    whole, killed = runs
    weights = [load_file(next(run.glob("*model.safetensors"))) for run in runs]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())
    logs = [json.loads((run / "trainer_state.json").read_text())["log_history"] for run in runs]
    losses = [
        [(log["step"], log["epoch"], log["loss"], log["vision_tokens"]) for log in of_run if "loss" in log]
        for of_run in logs
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 6
    noted = [json.loads(line) for line in (whole / "skipped_rows.jsonl").read_text().splitlines()]
    reasons = {row["origin"].split(", ")[-1]: row["reason"] for row in noted}
    assert "lost.png" in reasons["row 2"] and "cut to" in reasons["row 1"]
    (killed / "checkpoint-6" / "stream_0.json").unlink()
    with pytest.raises(ValueError, match="lacks stream_0.json"):
        main([str(tmp_path / "killed" / "recipe.yaml"), "--max_steps", "8"])


def test_scenes_that_are_drawn_hold_nothing_out(parts):
    with pytest.raises(ValueError, match="held_out is of rows in files"):
        stream_part(parts[-1] | {"held_out": 3}, "train")


def test_streams_need_an_end_and_keep_their_workers(parts, setokim_recipe, tmp_path):
    main = importlib.import_module("training.finetune_setokim").main
    recipe = setokim_recipe("finetune", tmp_path, mixture=parts, streaming=True, max_length=300, long_rows="skip")
    with pytest.raises(ValueError, match="A stream has no end: say by max_steps"):
        main([str(recipe), "--max_steps", "-1"])
    main([str(recipe), "--max_steps", "2"])
    with pytest.raises(ValueError, match="read by 1 processes of 1 workers, and now there are 1 of 2"):
        main([str(recipe), "--dataloader_num_workers", "2"])


@pytest.mark.slow
@pytest.mark.parametrize("write", [write_parquet, write_tar])
def test_two_processes_of_two_workers_read_each_row_once(write, tmp_path):
    """And after half of their batches they go on as if nothing had been."""
    scenes = EmojiScenes("train", 48, SIZE, tasks=("caption",))
    part = json.dumps(write(tmp_path / "data", scenes, 4))

    def read(first: int, batches: int) -> list[list[list[str]]]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        arguments = [str(ROOT / "tests" / "read_stream.py"), part, str(tmp_path), str(first), str(batches)]
        subprocess.run([*command, *arguments], check=True, env=environment(), timeout=600)
        return [json.loads((tmp_path / f"read_{rank}_{first}.json").read_text()) for rank in range(2)]

    whole = read(0, 8)
    written = [row["messages"][-1]["content"][0]["text"] for row in scenes]
    assert sorted(text for process in whole for batch in process for text in batch) == sorted(written)
    before, after = read(0, 3), read(3, 5)
    assert [first + rest for first, rest in zip(before, after, strict=True)] == whole


@pytest.mark.slow
def test_two_processes_train_and_go_on_bit_for_bit(parts, setokim_recipe, tmp_path):
    options = {"streaming": True, "shuffle_buffer": 8, "max_length": 300, "long_rows": "cut", "logging_steps": 1}
    for name in ("whole", "killed"):
        recipe = setokim_recipe(
            "finetune", tmp_path / name, dataloader_num_workers=2, per_device_train_batch_size=4, **options,
            mixture=[part for part in parts if part.get("name") != "talk"],  # which has fewer rows than workers
        )  # fmt: skip
        if name == "killed":
            shutil.copytree(tmp_path / "whole" / "run" / "checkpoint-2", tmp_path / "killed" / "run" / "checkpoint-2")
        finish(launch("finetune_setokim.py", recipe, processes=2))
    whole, killed = (load_file(tmp_path / name / "run" / "model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(killed[name], tensor) for name, tensor in whole.items())
    assert (tmp_path / "whole" / "run" / "checkpoint-2" / "stream_1.json").is_file()
