"""The command as a user runs it, and a LLaVA to run it on."""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from training.evaluation.benchmark import __main__ as command
from training.evaluation.tiny_llava import tiny_llava


class Run(NamedTuple):
    """What the command left: results, the lines of the predictions, the files of the submission, and what it said."""

    results: dict
    predictions: list[dict]
    submission: dict[str, str]
    table: str


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("llava")
    for part in tiny_llava():
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def run(monkeypatch, capsys):
    def measure(name: str, model: Path, data: Path, output: Path, *arguments: str) -> Run:
        fixed = ["--model", str(model), "--data", str(data), "--output", str(output), "--max_new_tokens", "4"]
        monkeypatch.setattr(sys, "argv", ["benchmark", name, *fixed, "--device", "cpu", *arguments])
        command.main()
        lines = output.with_suffix(".predictions.jsonl").read_text(encoding="utf-8").splitlines()
        files = output.with_suffix(".submission")
        return Run(
            results=json.loads(output.read_text())["results"],
            predictions=[json.loads(line) for line in lines],
            submission={path.name: path.read_text(encoding="utf-8") for path in files.iterdir()}
            if files.exists()
            else {},
            table=capsys.readouterr().out,
        )

    return measure
