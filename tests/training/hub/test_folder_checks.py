"""What is published is the model's and nobody else's, and runs no code but ours."""

import json
import sys
from pathlib import Path

import pytest
import torch

from modeling_setok import SetokForPreTraining
from training.hub import push_to_hub
from training.hub.folder_checks import refuse_foreign_code
from training.hub.push_to_hub import assemble, check_files, load

EVIL = "attacker/repo--evil.X"


def change(folder: Path, name: str, **values) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def link(folder: Path, name: str, content: str = "of others") -> None:
    """Puts a link to a file outside in the place of a file."""
    outside = folder.parent / f"outside-{name}"
    outside.write_text(content)
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(outside)


def test_what_is_only_called_like_weights_is_not_published(copied, tmp_path):
    folder = copied("my-setok")
    extra = ("model.safetensors.bak", "model-token.safetensors.env", "model_x.safetensors", "model.safetensors.index")
    for name in (*extra, "model-00001-of-00002.safetensors", ".env", "notes.txt", "optimizer.pt"):
        (folder / name).write_text("secret")
    assemble(folder, tmp_path / "output")
    published = {path.name: path.read_bytes() for path in (tmp_path / "output").iterdir()}
    assert b"secret" not in b"".join(published.values())
    assert published["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_of_shards_those_of_the_index_are_published(copied, setok_folder, tmp_path):
    folder = copied("my-setok")
    (folder / "model.safetensors").unlink()
    SetokForPreTraining.from_pretrained(setok_folder, dtype=torch.float32).save_pretrained(
        folder, max_shard_size="20KB"
    )
    shards = {path.name for path in folder.glob("model*.safetensors")}
    (folder / "model-00099-of-00099.safetensors").write_text("of another version")
    assemble(folder, tmp_path / "output")
    assert {path.name for path in (tmp_path / "output").glob("model*.safetensors")} == shards
    index = folder / "model.safetensors.index.json"
    for content in ("[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": "../model.safetensors"}}'):
        index.write_text(content)
        with pytest.raises(ValueError, match="model.safetensors.index.json"):
            check_files(folder)


@pytest.mark.parametrize("name", ["picture.png", "results.json", "README.md", "model.safetensors", "config.json"])
def test_links_are_not_followed(copied, name, tmp_path):
    folder = copied("my-setok")
    link(folder, name, (folder / name).read_text(encoding="latin-1"))
    with pytest.raises(ValueError, match=f"{name} is a link to .*, and links are not published"):
        assemble(folder, tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_a_card_shows_pictures_and_no_other_files(copied):
    folder = copied("my-setok")
    (folder / "training_args.bin").write_bytes(b"secret")
    card = folder / "README.md"
    card.write_text(card.read_text() + "\n[arguments](training_args.bin)\n")
    with pytest.raises(ValueError, match="links to training_args.bin, and of files beside a card only pictures"):
        check_files(folder)


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"auto_map": {"AutoConfig": EVIL}}),
        ("config.json", {"auto_map": {"AutoModel": "evil.Model"}}),
        ("config.json", {"auto_map": {"AutoModel": "modeling_setok.torch"}}),
        ("config.json", {"vision_config": {"auto_map": {"AutoConfig": EVIL}}}),
        ("config.json", {"custom_pipelines": {"x": {"impl": EVIL}}}),
        ("config.json", {"attn_implementation": "attacker/kernel"}),
        ("config.json", {"_attn_implementation": {"vision_config": "attacker/kernel"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, EVIL]}}),
        ("tokenizer_config.json", {"tokenizer_class": "EvilTokenizer"}),
        ("processor_config.json", {"auto_map": {"AutoProcessor": EVIL}}),
        ("processor_config.json", {"image_processor": {"auto_map": {"AutoImageProcessor": [EVIL, None]}}}),
        ("generation_config.json", {"custom_generate": "attacker/repo"}),
    ],
)
def test_foreign_code_is_refused_before_anything_is_loaded(copied, file, values, monkeypatch, tmp_path):
    folder = copied("my-setokim")
    refuse_foreign_code(folder)
    change(folder, file, **values)
    monkeypatch.setattr(push_to_hub, "load", lambda folder: pytest.fail("it was loaded"))
    (key,) = values if "config" not in next(iter(values)) or "pipelines" in next(iter(values)) else ("auto_map",)
    key = "auto_map" if key == "image_processor" else key
    with pytest.raises(ValueError, match=f"{file} refers by {key} to code that is not this project's"):
        assemble(folder, tmp_path / "output")


def test_code_of_our_own_is_let_pass(copied, tmp_path):
    """A folder that was assembled, which names our code, can be published in its turn."""
    for name in ("my-setok", "my-setokim"):
        assemble(copied(name), tmp_path / "output" / name)
        assert "auto_map" in json.loads((tmp_path / "output" / name / "config.json").read_text())
        refuse_foreign_code(tmp_path / "output" / name)
        load(tmp_path / "output" / name)


@pytest.mark.parametrize("where", ["folder", "file", "pictures"])
def test_nothing_is_written_outside_the_output(copied, tmp_path, monkeypatch, where):
    folder, output, outside = copied("my-setok"), tmp_path / "hub", tmp_path / "outside"
    outside.mkdir()
    (outside / "config.json").write_text("of others")
    output.mkdir()
    if where == "folder":
        (output / "my-setok").symlink_to(outside)
    else:
        (output / "my-setok").mkdir()
        name = "config.json" if where == "file" else "pictures"
        (output / "my-setok" / name).symlink_to(outside / "config.json" if where == "file" else outside)
    monkeypatch.setattr(sys, "argv", ["push_to_hub", str(folder), "--output", str(output), "--skip-check"])
    with pytest.raises(SystemExit, match="is a link, and would be written through"):
        push_to_hub.main()
    assert [path.read_text() for path in outside.iterdir()] == ["of others"]


def test_an_output_is_no_source_and_no_two_models(copied, tmp_path, monkeypatch):
    folder = copied("my-setok")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for folders, message in (([folder], "would write over"), ([folder, folder], "Several folders are called my-setok")):
        command = ["push_to_hub", *map(str, folders), "--output", str(tmp_path), "--skip-check"]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit, match=message):
            push_to_hub.main()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("README.md", b"\xff\xfe", "README.md is not text in UTF-8"),
        ("results.json", b"\xff\xfe", "results.json is not text in UTF-8"),
        ("config.json", b"[" * 100_000, "config.json is not JSON"),
        ("tokenizer.json", b"{}", "does not load"),
        ("tokenizer.json", b"", "tokenizer.json is not JSON"),
        ("chat_template.jinja", b"\n", "chat_template.jinja is empty"),
        ("model.safetensors", b"", "does not load"),
    ],
)
def test_damaged_files_are_named(copied, file, content, message, tmp_path):
    folder = copied("my-setokim")
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        assemble(folder, tmp_path / "output")


@pytest.mark.parametrize("architectures", [["__name__"], [5], [], "SetokForPreTraining", ["SetokConfig"], None])
def test_an_architecture_is_a_model_of_ours(copied, architectures):
    folder = copied("my-setok")
    change(folder, "config.json", architectures=architectures)
    with pytest.raises(ValueError, match="as its architecture, which is not ours|does not load"):
        load(folder)
