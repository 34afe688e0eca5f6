"""What the check says of repositories that are broken: a sentence, whatever is wrong."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import torch

from tests.script_testing import environment
from training.hub import check_repository
from training.hub.push_to_hub import assemble


@pytest.fixture
def repository(folders, tmp_path):
    assemble(folders["my-setok"], tmp_path / "repository")
    return tmp_path / "repository"


@pytest.fixture
def check(repository, monkeypatch):
    """What the command says of the repository. Our packages stay in sight: this process needs them."""
    monkeypatch.setattr(check_repository, "OWN_PACKAGES", ())
    monkeypatch.setattr(sys, "argv", ["check_repository", str(repository), "--saved-again"])

    def run() -> str:
        with pytest.raises(SystemExit) as stopped:
            check_repository.main()
        return stopped.value.code

    return run


def change(repository, **values):
    path = repository / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def no_architecture(repository):
    change(repository, architectures=None)


def unknown_auto_class(repository):
    auto_map = json.loads((repository / "config.json").read_text())["auto_map"]
    change(repository, auto_map=auto_map | {"AutoWonder": "modeling_setok.SetokModel"})


def unknown_class(repository):
    auto_map = json.loads((repository / "config.json").read_text())["auto_map"]
    change(repository, auto_map=auto_map | {"AutoModel": "modeling_setok.Wonder"})


def pickle_alone(repository):
    (repository / "model.safetensors").unlink()
    torch.save({}, repository / "pytorch_model.bin")


def syntax_error(repository):
    (repository / "token_merger.py").write_text("def (")


def nothing(repository):
    shutil.rmtree(repository)
    repository.mkdir()


def broken_weights(repository):
    (repository / "model.safetensors").write_bytes(b"no weights")


def no_config(repository):
    (repository / "config.json").write_text("[]")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_architecture, "config.json names no architecture"),
        (unknown_auto_class, "auto_map in config.json names AutoWonder"),
        (pickle_alone, "it has no weights in model.*save_pretrained"),
        (nothing, "config.json"),
        (broken_weights, "SafetensorError"),
        (no_config, "."),
    ],
)
def test_every_broken_repository_gets_a_sentence(repository, check, spoil, message):
    spoil(repository)
    said = check()
    assert said.startswith(f"Error: {repository} does not work: ")
    assert len(said.split()) > 6
    assert re.search(message, said, re.DOTALL), said


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(unknown_class, "AttributeError: .*Wonder"), (syntax_error, "SyntaxError: .*token_merger.py")],
)
def test_broken_code_gets_a_sentence(repository, spoil, message, tmp_path):
    """From a process without our packages: this one would take those for the repository's."""
    spoil(repository)
    command = [sys.executable, "-P", check_repository.__file__, str(repository), "--saved-again"]
    variables = environment() | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert re.search(f"Error: {repository} does not work: {message}", done.stderr), done.stderr
