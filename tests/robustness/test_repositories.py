"""Folders of models as they should not be published: damaged, with files of others, with code of others."""

import json
import random
import shutil
import sys
from pathlib import Path

import pytest

from tests.robustness.campaign import campaign
from tests.training.conftest import processor, setok_folder, setokim_folder  # noqa: F401
from tests.training.hub.conftest import folders  # noqa: F401
from training.hub import check_repository
from training.hub.folder_checks import CONFIGURATIONS
from training.hub.push_to_hub import assemble, check_files

pytestmark = pytest.mark.slow

SECRET = b"of others, and secret"
EVIL = ("attacker/repo--evil.X", "evil.X", "modeling_setok.evil", "modeling_setok", "..evil.X", "os.system", "")
PLACES = (
    ("auto_map", lambda evil: {"AutoModel": evil}),
    ("auto_map", lambda evil: {"AutoTokenizer": [None, evil]}),
    ("auto_map", lambda evil: {"AutoImageProcessor": {"pil": evil}}),
    ("auto_map", lambda evil: evil),
    ("custom_pipelines", lambda evil: {"captions": {"impl": evil}}),
    ("custom_generate", lambda evil: f"attacker/{evil}"),
    ("_attn_implementation", lambda evil: f"attacker/{evil}"),
    ("tokenizer_class", lambda evil: f"Evil{evil}"),
)


@pytest.fixture
def copies(folders, tmp_path):  # noqa: F811
    """Fresh copies of a SeTok's and a Setokim's folder, one after the other."""

    def fresh(name: str) -> Path:
        shutil.rmtree(tmp_path / "copies", ignore_errors=True)
        return shutil.copytree(folders[name], tmp_path / "copies" / name)

    return fresh


def published(folder: Path, output: Path) -> dict[str, bytes]:
    shutil.rmtree(output, ignore_errors=True)
    assemble(folder, output)
    return {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}


def test_references_to_code_of_others(copies):
    """Refused, however deep they stand, with the file's name."""
    source = random.Random(8)
    with campaign("references to code of others", least=300) as cases:
        for _ in range(300):
            folder = copies(source.choice(["my-setok", "my-setokim", "my-setokim"]))
            file = source.choice([folder / name for name in CONFIGURATIONS if (folder / name).exists()])
            content = json.loads(file.read_text())
            (key, make), evil = source.choice(PLACES), source.choice(EVIL)
            part = content
            while nested := [value for value in part.values() if isinstance(value, dict)]:
                if source.random() < 0.4:
                    break
                part = source.choice(nested)
            part[key] = make(evil)
            file.write_text(json.dumps(content))
            cases.run(
                f"{file.name}: {key}={part[key]!r}",
                lambda folder=folder: check_files(folder),
                names=[file.name],
                must_refuse=True,
            )


def test_files_of_others(copies, tmp_path):
    """Files that are not the model's are not published; links to others are refused."""
    source, outside = random.Random(9), tmp_path / "outside"
    outside.mkdir()
    stems = ("model", "model-token", "model_x", ".env", "optimizer", "notes", "picture", "config", "tokenizer")
    ends = (".safetensors", ".safetensors.bak", ".safetensors.index", ".bin", ".pt", ".py", ".json.bak", "", ".png")
    with campaign("files of others", least=150) as cases:
        for number in range(150):
            folder = copies("my-setok")
            name = source.choice(stems) + source.choice(ends)
            if number % 2:
                name = source.choice(sorted(path.name for path in folder.iterdir()))
            is_own = (folder / name).exists()
            if number % 2 or source.random() < 0.3:  # a link to a file outside, of the same content where it was there
                (outside / "file").write_bytes((folder / name).read_bytes() if is_own else SECRET)
                (folder / name).unlink(missing_ok=True)
                (folder / name).symlink_to(outside / "file")
                cases.run(
                    f"{name} is a link", lambda f=folder: published(f, tmp_path / "output"), names=[name],
                    must_refuse=True,
                )  # fmt: skip
            elif not is_own:
                (folder / name).write_bytes(SECRET)
                cases.run(
                    f"{name} lies there",
                    lambda f=folder: published(f, tmp_path / "output"),
                    check=lambda files: SECRET not in files.values(),
                )
            else:
                cases.run(f"{name} as it is", lambda f=folder: published(f, tmp_path / "output"))


def test_damaged_folders(copies, tmp_path):
    """Refused with the name of the file or folder; what does not matter is published as it should be."""
    source = random.Random(10)
    with campaign("damaged folders", least=150) as cases:
        for _ in range(150):
            folder = copies(source.choice(["my-setok", "my-setokim"]))
            file = source.choice(sorted(path for path in folder.iterdir() if path.suffix != ".py"))
            whole = file.read_bytes()
            at = source.randrange(max(1, len(whole)))
            ways = (b"", whole[:at], b"\xff\xfe" + whole, b"[]", b"{}", b"null", source.randbytes(100), None)
            data = source.choice(ways)
            file.unlink() if data is None else file.write_bytes(data)
            cases.run(
                f"{folder.name}/{file.name}: {'deleted' if data is None else data[:40]}",
                lambda f=folder: published(f, tmp_path / "output"),
                check=lambda files: "config.json" in files and "README.md" in files,
                names=[file.name, str(folder)],
            )


def test_repositories_that_do_not_work(folders, tmp_path, monkeypatch):  # noqa: F811
    """`check_repository` says a sentence for each, or that it works."""
    source, whole, repository = random.Random(11), tmp_path / "whole", tmp_path / "repository"
    assemble(folders["my-setok"], whole)
    monkeypatch.setattr(check_repository, "OWN_PACKAGES", ())  # which this process needs
    monkeypatch.setattr(sys, "argv", ["check_repository", str(repository), "--saved-again"])

    def run() -> str:
        try:
            check_repository.main()
        except SystemExit as stopped:
            assert stopped.code.startswith(f"Error: {repository} does not work: ")
            raise ValueError(stopped.code) from None
        return "works"

    with campaign("repositories that do not work", least=100) as cases:
        for _ in range(100):
            shutil.rmtree(repository, ignore_errors=True)
            shutil.copytree(whole, repository)
            name = source.choice(["config.json", "preprocessor_config.json", "model.safetensors"])
            file = repository / name
            data = file.read_bytes()
            if name.endswith("json") and source.random() < 0.6:
                content = json.loads(data)
                key = source.choice(sorted(content))
                content[key] = source.choice([None, [], {}, "x", -1, [5], {"AutoWonder": "x.Y"}])
                file.write_text(json.dumps(content))
                how = f"{key}={content[key]!r}"
            else:
                data = source.choice([b"", data[: source.randrange(len(data))], b"[]", b"\xff", None])
                file.unlink() if data is None else file.write_bytes(data)
                how = "deleted" if data is None else f"{data[:20]!r}"
            cases.run(f"{name}: {how}", run)
