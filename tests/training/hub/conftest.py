"""Tiny models in folders with results and finished cards, as they are published."""

import json
import shutil
from pathlib import Path

import pytest

from training.hub.model_card import measured_card, new_card, shipped_models

SHIPPED = {folder.name: folder for folder in shipped_models()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, setok_folder, setokim_folder) -> dict[str, Path]:
    """A tiny SeTok and a tiny Setokim with results (of the shipped models) and finished cards."""
    folders = {}
    for source, name in ((setok_folder, "my-setok"), (setokim_folder, "my-setokim")):
        folder = tmp_path_factory.mktemp("runs") / name
        shutil.copytree(source, folder)
        model_type = json.loads((folder / "config.json").read_text())["model_type"]
        shutil.copy(SHIPPED[f"{model_type}-emoji-tiny"] / "results.json", folder)
        (folder / "picture.png").write_bytes(b"a picture")
        card = new_card(folder, "mit").replace(
            "(Fill in", "(See your-name/my-other, modeling_setok/x.py, ![a](./picture.png)"
        )
        (folder / "README.md").write_text(card)
        (folder / "README.md").write_text(measured_card(folder))
        (folder / "training_args.bin").write_bytes(b"what the Trainer leaves")
        folders[name] = folder
    return folders


@pytest.fixture
def copied(folders, tmp_path):
    """Copies of the folders, to be spoiled."""

    def copy(name: str) -> Path:
        return shutil.copytree(folders[name], tmp_path / name)

    return copy
