"""Repositories: assembled, pushed to a Hub of our own, and loaded from there by processes without our packages."""

import json
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, constants
from PIL import Image
from safetensors.torch import load_file, save_file

from modeling_setok import SetokForPreTraining
from tests.hub_server import TOKEN, Hub, running_hub
from tests.script_testing import ROOT, environment
from training.hub import push_to_hub
from training.hub.check_repository import same_numbers
from training.hub.model_card import shipped_models
from training.hub.push_to_hub import assemble, check_files, load, prove, push

# The others lack an encoder that is fetched: see test_frozen_parts.py
SHIPPED = {folder.name: folder for folder in shipped_models() if folder.name.endswith("-emoji-tiny")}
OWN_PACKAGES = ("modeling_setok", "processing", "training")
CHECK = ROOT / "training" / "hub" / "check_repository.py"


@pytest.fixture(scope="module")
def whole(setokim_emoji_tiny) -> dict[str, Path]:
    """The same with all their weights."""
    return SHIPPED | {setokim_emoji_tiny.name: setokim_emoji_tiny}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_assembled_is_complete_and_always_the_same(folders, tmp_path):
    expected = {
        "my-setok": "preprocessor_config.json image_processing_setok.py modeling_setok.py",
        "my-setokim": "processor_config.json tokenizer.json tokenizer_config.json chat_template.jinja "
        "generation_config.json image_processing_setok.py processing_setokim.py modeling_setok.py modeling_setokim.py "
        "generation_setokim.py tasks_setokim.py configuration_setokim.py diffusion_head.py mask_decoder.py",
    }
    common = "README.md LICENSE results.json picture.png config.json model.safetensors configuration_setok.py"
    for name, folder in folders.items():
        output = tmp_path / name
        assemble(folder, output)
        first = contents(output)
        assert set(f"{common} {expected[name]}".split()) <= first.keys()
        assert "training_args.bin" not in first
        own_code = {file for file in first if file.endswith(".py")}
        sources = {path.name: path.read_bytes() for path in (ROOT / "modeling_setok").glob("*.py")}
        sources |= {path.name: path.read_bytes() for path in (ROOT / "processing").glob("*.py")}
        assert {file: first[file] for file in own_code} == {file: sources[file] for file in own_code}
        assert first["model.safetensors"] == (folder / "model.safetensors").read_bytes()
        (output / "notes.txt").write_text("of the user")
        assemble(folder, output)
        assert contents(output) == first | {"notes.txt": b"of the user"}


def test_weights_are_published_as_they_are(copied, setok_folder, tmp_path):
    """In their own dtype and shards."""
    folder, output = copied("my-setok"), tmp_path / "output"
    model = SetokForPreTraining.from_pretrained(setok_folder, dtype=torch.bfloat16)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    shards = {name: data for name, data in contents(folder).items() if ".safetensors" in name}
    assert len(shards) > 2
    for _ in range(2):
        assemble(folder, output)
        assert {name: data for name, data in contents(output).items() if ".safetensors" in name} == shards
    prove(output)


def test_stored_numbers_may_be_narrower_than_the_models():
    half, single = torch.tensor([0.1]).half(), torch.tensor([0.1])
    assert same_numbers(half, half.float()) and same_numbers(half, half)
    assert not same_numbers(half, single)  # other numbers
    assert not same_numbers(half.float(), half)  # the file knows more than the model
    assert not same_numbers(half, half.bfloat16())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_model_computes_in_float32(whole, name):
    """Whatever the weights are stored in; what was measured, not learned, is stored in float32, too."""
    model, _ = load(whole[name])
    assert {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()} == {torch.float32}
    stored = load_file(whole[name] / "model.safetensors")
    for key, buffer in model.named_buffers():
        if key in stored and buffer.is_floating_point():
            assert stored[key].dtype == torch.float32, key


def test_card_calls_the_models_as_they_are_published(folders, tmp_path):
    assemble(folders["my-setok"], tmp_path, {"my-setok": "me/tokenizer"})
    text = (tmp_path / "README.md").read_text()
    assert 'repository = "me/tokenizer"' in text and "your-name/my-setok" not in text
    assert "See your-name/my-other, modeling_setok/x.py" in text  # of others it is not known where they are
    assert ModelCard(text).data.license == "mit"


def spoil_nothing_is_there(folder):
    (folder / "model.safetensors").unlink()


def spoil_card_is_missing(folder):
    (folder / "README.md").unlink()


def spoil_card_has_other_numbers(folder):
    path = folder / "README.md"
    text = path.read_text()
    path.write_text(re.sub(r"(\| reconstruction: SSIM \| )0\.\d+", r"\g<1>0.999", text))
    assert path.read_text() != text


def spoil_metadata_has_other_numbers(folder):
    path = folder / "README.md"
    text = path.read_text()
    path.write_text(re.sub(r"(type: ssim\n +value: )0\.\d+", r"\g<1>0.999", text))
    assert path.read_text() != text


def spoil_results_are_missing(folder):
    (folder / "results.json").unlink()


def spoil_card_is_unfinished(folder):
    path = folder / "README.md"
    path.write_text(path.read_text() + "\n(Fill in: the end.)\n")


def spoil_picture_is_missing(folder):
    (folder / "picture.png").unlink()


def spoil_link_leads_out(folder):
    path = folder / "README.md"
    path.write_text(
        path.read_text() + "\n[notes](../notes.md), [site](https://example.org), [me](mailto:me@example.org)\n"
    )
    (folder.parent / "notes.md").write_text("of others")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_nothing_is_there, r"has no model\*.safetensors"),
        (spoil_card_is_missing, "has no model card"),
        (spoil_card_has_other_numbers, "does not say what results.json says"),
        (spoil_metadata_has_other_numbers, "does not say what results.json says"),
        (spoil_results_are_missing, "results.json is missing"),
        (spoil_card_is_unfinished, "is unfinished"),
        (spoil_picture_is_missing, "links to what is not in its folder: picture.png"),
        (spoil_link_leads_out, "links to what is not in its folder: ../notes.md"),
    ],
)
def test_refuses_what_would_mislead(copied, spoil, reason, tmp_path):
    folder = copied("my-setok")
    check_files(folder)
    spoil(folder)
    with pytest.raises(ValueError, match=reason):
        assemble(folder, tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_refuses_what_would_not_load(copied):
    folder = copied("my-setokim")
    weights = load_file(folder / "model.safetensors")
    name = "diffusion_head.linear_out.weight"
    kept = {key: tensor for key, tensor in weights.items() if key != name}
    for wrong, reason in (
        (kept, f"missing_keys.*{name}"),
        (weights | {"more": torch.ones(1)}, "unexpected_keys.*more"),
        (kept | {name: torch.ones(3, 3)}, "does not load|mismatched"),
    ):
        save_file(wrong, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ValueError, match=reason):
            load(folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="does not load"):
        load(folder)
    shutil.copy(shipped_models()[0] / "config.json", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["SetokTokenizer"]}))
    with pytest.raises(ValueError, match="SetokTokenizer as its architecture"):
        load(folder)


def test_proof_fails_without_a_file_of_the_code(folders, tmp_path):
    assemble(folders["my-setok"], tmp_path)
    (tmp_path / "token_merger.py").unlink()
    with pytest.raises(ValueError, match="does not load without this project(.|\n)*token_merger.py"):
        prove(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "required"),
        (["--output", "x", "--repo-id", "me/x"], "not allowed"),
        (["--repo-id", "me/x"], "one repository, and there are 4 folders"),
        (["--output", "x", "--private"], "belong to --repo-id"),
        (["--repo-id", "me/x", "--skip-check", "x"], "belongs to --output"),
    ],
)
def test_command_line_says_what_is_wrong(arguments, reason, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["push_to_hub", *arguments])
    with pytest.raises(SystemExit):
        push_to_hub.main()
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["none", "--output", "out"], "none is not a folder"),
        (["none", "--repo-id", "my name/none"], "my name/none"),
        (["none", "--repo-id", "me/none"], "hf auth login"),  # told before any work
    ],
)
def test_command_reports_errors_in_a_sentence(arguments, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(sys, "argv", ["push_to_hub", *arguments])
    with pytest.raises(SystemExit, match=f"^Error: .*{reason}"):
        push_to_hub.main()


def test_command_leaves_no_weights_of_a_former_version(folders, tmp_path, monkeypatch, capsys):
    """Else those would be loaded."""
    former = tmp_path / "my-setok" / "model-00001-of-00002.safetensors"
    former.parent.mkdir()
    former.write_bytes(b"of a former version in two shards")
    (former.parent / "notes.txt").write_text("of the user")
    monkeypatch.setattr(push_to_hub, "prove", lambda folder: "proved\n")
    monkeypatch.setattr(sys, "argv", ["push_to_hub", str(folders["my-setok"]), "--output", str(tmp_path)])
    push_to_hub.main()
    assert not former.exists() and (former.parent / "notes.txt").exists()
    assert contents(former.parent)["model.safetensors"] == (folders["my-setok"] / "model.safetensors").read_bytes()
    assert f"my-setok: {former.parent}" in capsys.readouterr().out


# With a Hub; `pytest -s` shows the log of its requests


@pytest.fixture(scope="module")
def hub():
    with running_hub() as hub:
        yield hub
        print("", *(f"{status} {method:5}{path}" for method, path, status in hub.requests), sep="\n")


@pytest.fixture(scope="module")
def published(hub, tmp_path_factory) -> list[str]:
    """The requests of our command while it pushed the shipped models into private repositories, as their cards say."""
    folder = tmp_path_factory.mktemp("push")
    command = ["-m", "training.hub.push_to_hub", *SHIPPED.values(), "--repo-id", "your-name", "--private"]
    output = run(hub, folder, *command)
    assert all(f"{name}: {hub.endpoint}/your-name/{name}/commit/" in output for name in SHIPPED)
    return [f"{method} {path.split('?')[0]}" for method, path, _ in hub.requests]


def run(hub: Hub, folder: Path, *command: str | Path) -> str:
    """What a process on this Hub prints. It finds our packages; its cache and working directory are in the folder."""
    result = subprocess.run(
        [sys.executable, *command],
        env=environment() | hub.environment(str(folder / "cache")), cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    return result.stdout


def test_pushed_is_what_was_assembled(hub, published, whole, tmp_path):
    for name, folder in whole.items():
        repository = hub.repositories[f"your-name/{name}"]
        assert repository.private
        assemble(folder, tmp_path / name)
        pushed = {path: data for path, data in repository.files().items() if path != ".gitattributes"}
        assert pushed == contents(tmp_path / name)
        assert pushed["model.safetensors"] == (folder / "model.safetensors").read_bytes()
        for step in ("preupload/main", "commit/main"):
            assert published.count(f"POST /api/models/your-name/{name}/{step}") == 1
    assert published.count("POST /api/repos/create") == len(SHIPPED)
    assert sum(request.startswith("PUT /upload/your-name/") for request in published) == len(SHIPPED)


def test_pushed_again_only_what_has_changed(hub, folders, tmp_path, monkeypatch):
    monkeypatch.setattr(push_to_hub, "HfApi", partial(HfApi, endpoint=hub.endpoint, token=TOKEN))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    assemble(folders["my-setok"], tmp_path)
    push(tmp_path, "me/tokens")
    repository, start = hub.repositories["me/tokens"], len(hub.requests)
    assert not repository.private and len(repository.commits) == 2
    push(tmp_path, "me/tokens")
    assert len(repository.commits) == 2
    assert not [path for _, path, _ in hub.requests[start:] if "/commit/" in path or "/upload/" in path]

    repository.files()["model-00001-of-00002.safetensors"] = b"of a former version in two shards"
    repository.files()["handler.py"] = b"written on the Hub"
    push(tmp_path, "me/tokens", revision="v1")
    assert repository.files("v1").keys() == repository.files().keys() - {"model-00001-of-00002.safetensors"}
    assert "model-00001-of-00002.safetensors" in repository.files()
    with pytest.raises(ValueError, match="me/tokens exists and is public"):
        push(tmp_path, "me/tokens", private=True)


def test_a_stranger_cannot_read_what_is_private(hub, published, tmp_path):
    code = "from transformers import AutoConfig; AutoConfig.from_pretrained('your-name/setok-emoji-tiny')"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path,
        env=environment() | hub.environment(str(tmp_path)) | {"HF_TOKEN": ""},
    )  # fmt: skip
    assert result.returncode and "your-name/setok-emoji-tiny is not a" in result.stderr


@pytest.mark.parametrize("name", SHIPPED)
def test_code_of_the_card_runs_from_the_hub(hub, published, name, tmp_path):
    """As it stands in the published card, by a process that cannot import our packages."""
    blocks = re.findall(
        r"```python\n(.*?)```", hub.repositories[f"your-name/{name}"].files()["README.md"].decode(), re.DOTALL
    )
    hide = f"import sys; sys.modules.update(dict.fromkeys({OWN_PACKAGES}))"
    script = tmp_path / "use.py"
    script.write_text("\n".join([hide, *blocks]))
    printed = run(hub, tmp_path, script)
    if name == "setok-emoji-tiny":
        assert "tropical fish" in printed and "owl" in printed  # two of the three things in scene.png
        assert Image.open(tmp_path / "painted.png").size == (64, 64)
    else:
        caption, count, colour = printed.splitlines()[-3:]
        assert caption.endswith("on a plain blue background.") and count.isdigit() and colour == "blue"


def test_pushed_by_the_libraries(hub, folders, setokim_recipe, tmp_path):
    """`push_to_hub` of models, processors and the Trainer bring the code along; all load by their ids without ours."""
    recipe = setokim_recipe("pretrain", tmp_path, max_steps=1, push_to_hub=True, hub_model_id="me/trained")
    code = f"""
from modeling_setok import SetokForPreTraining, SetokimForConditionalGeneration, SetokModel
from processing import SetokImageProcessor, SetokimProcessor
from training.pretrain_setokim import main

setok, setokim = {str(folders["my-setok"])!r}, {str(folders["my-setokim"])!r}
for cls in (SetokForPreTraining, SetokImageProcessor):
    cls.from_pretrained(setok).push_to_hub("me/my-setok")
for cls in (SetokModel, SetokImageProcessor):  # without the detokenizer
    cls.from_pretrained(setok).push_to_hub("me/tokens-alone")
for cls in (SetokimForConditionalGeneration, SetokimProcessor):
    cls.from_pretrained(setokim).push_to_hub("me/my-setokim")
main([{str(recipe)!r}])
"""
    run(hub, tmp_path, "-c", code)
    for name, source in {**folders, "trained": tmp_path / "run"}.items():
        pushed = hub.repositories[f"me/{name}"].files()
        assert pushed["model.safetensors"] == (source / "model.safetensors").read_bytes()

    names = ("me/my-setok", "me/tokens-alone", "me/my-setokim", "me/trained")
    printed = run(hub, tmp_path / "run", "-P", CHECK, *names, "--saved-again")
    lines = [line.split()[:2] for line in printed.splitlines()]
    for name, classes in (
        ("my-setok", "AutoConfig AutoModel AutoModelForPreTraining AutoImageProcessor"),
        ("tokens-alone", "AutoConfig AutoModel AutoImageProcessor"),
        (
            "my-setokim",
            "AutoConfig AutoModel AutoModelForImageTextToText AutoModelForMultimodalLM AutoProcessor AutoTokenizer",
        ),
        (
            "trained",
            "AutoConfig AutoModel AutoModelForImageTextToText AutoModelForMultimodalLM AutoProcessor AutoTokenizer",
        ),
    ):
        assert [[name, part] for part in classes.split() if [name, part] not in lines] == []
