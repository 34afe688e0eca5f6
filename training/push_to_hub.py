"""Makes a complete Hub repository of a model and its card, checks that it loads without this project, and publishes it:

python -m training.push_to_hub --output build/hub                                       all of model_cards/, on disk
python -m training.push_to_hub model_cards/setok-emoji-tiny --repo-id me/setok-emoji-tiny [--private] [--revision v1]
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import transformers
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers import AutoConfig

import modeling_setok
from processing import SetokImageProcessor, SetokimProcessor
from training.model_card import FILL_IN, NAMESPACE, ROOT, measured_card, shipped_models

WEIGHTS = "model*.safetensors*"  # and the index of shards
_LINK = re.compile(r"\]\(([^)#\s]+)\)")


def assemble(folder: Path, output: Path, repo_id: str | None = None) -> None:
    """Writes all of a Hub repository: weights, configurations, processor, chat template, code, card and its pictures.

    Args:
        folder: a model, its processor, `results.json` and `README.md`.
        output: may exist; files of other names stay.
        repo_id: by which the card calls the model; as in `folder` by default.

    Raises:
        ValueError: for what would not load or would mislead: weights that are not safetensors or do not fit the
            configuration, a card with other numbers than the results file, links to files that are not there.
    """
    check_files(folder)
    model, processor = load(folder)
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output)
    processor.save_pretrained(output)
    for written in output.glob(WEIGHTS):  # they are published as they are, shard by shard
        written.unlink()
    for file in folder.glob(WEIGHTS):
        shutil.copyfile(file, output / file.name)
    text = (folder / "README.md").read_text(encoding="utf-8")
    (output / "README.md").write_text(_renamed(text, folder.name, repo_id), encoding="utf-8")
    for name in ("results.json", *_links(text)):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, output / name)
    shutil.copyfile(ROOT / "LICENSE", output / "LICENSE")  # of the code


def check_files(folder: Path) -> None:
    """All that can be told without loading the model; see `assemble` for what is refused."""
    if not list(folder.glob(WEIGHTS)):
        raise ValueError(f"{folder} has no {WEIGHTS}: weights are published in no other form. Use save_pretrained.")
    up_to_date = measured_card(folder)
    text = (folder / "README.md").read_text(encoding="utf-8")
    if text != up_to_date:
        raise ValueError(
            f"{folder / 'README.md'} does not say what results.json says: python -m training.model_card {folder}"
        )
    if FILL_IN in text:
        raise ValueError(f"{folder / 'README.md'} is unfinished: write what its author has to ('{FILL_IN}: ...').")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    missing = [name for name in _links(text) if name not in there]
    if missing:
        raise ValueError(f"{folder / 'README.md'} links to what is not in its folder: {', '.join(missing)}.")


def load(folder: Path) -> tuple:
    """The model, in the dtype of its weights, and its processor."""
    config = AutoConfig.from_pretrained(folder)
    architecture = (config.architectures or ["none"])[0]
    model_class = getattr(modeling_setok, architecture, None)
    if model_class is None:
        raise ValueError(f"{folder / 'config.json'} names {architecture} as its architecture, which is not ours.")
    processor_class = SetokimProcessor if config.model_type == "setokim" else SetokImageProcessor
    try:
        model, loading = model_class.from_pretrained(folder, output_loading_info=True)
        processor = processor_class.from_pretrained(folder)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"{folder} does not load: {error}") from error
    if config.model_type == "setokim":
        for how in ("is_local", "local_files_only"):  # how it was loaded is not a fact about it
            processor.tokenizer.init_kwargs.pop(how, None)
    wrong = {what: sorted(map(str, names)) for what, names in loading.items() if names}
    if wrong:
        raise ValueError(f"The weights in {folder} do not fit its configuration: {wrong}.")
    return model, processor


def prove(repository: str | Path) -> str:
    """What a process says that loads the repository and cannot import this project; see `check_repository.py`.

    Raises:
        ValueError: it did not load.
    """
    script = Path(__file__).with_name("check_repository.py")
    with tempfile.TemporaryDirectory() as modules:
        result = subprocess.run(
            [sys.executable, "-P", script, str(repository)],
            env={**os.environ, "HF_MODULES_CACHE": modules},
            cwd=modules,
            capture_output=True,
            text=True,
        )
    if result.returncode:
        raise ValueError(f"{repository} does not load without this project:\n{result.stdout}{result.stderr}")
    return result.stdout


def push(folder: Path, repo_id: str, private: bool = False, revision: str | None = None) -> str:
    """Makes the Hub repository what the folder is; without a change, nothing is committed. Returns its address."""
    api = HfApi()
    repo_id = api.create_repo(repo_id, private=private or None, exist_ok=True).repo_id
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        revision=revision,
        commit_message="Publish the model",
        delete_patterns=["*.py", WEIGHTS],  # what former versions left
    )
    return commit.commit_url


def _renamed(text: str, name: str, repo_id: str | None) -> str:
    """The card with the names under which it and its like are published."""
    if repo_id is None:
        return text
    namespace = repo_id.split("/")[0]
    pattern = rf"(?<![\w./-]){NAMESPACE}/([\w.-]*\w)"
    return re.sub(pattern, lambda match: repo_id if match[1] == name else f"{namespace}/{match[1]}", text)


def _links(text: str) -> list[str]:
    """Files beside the card that it shows or links to."""
    return sorted({target for target in _LINK.findall(text) if not re.match(r"\w+:", target)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="default: all of model_cards/")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--output", type=Path, help="local folder, in which each repository has one of its own")
    target.add_argument("--repo-id", help="repository on the Hub, or the user or organisation alone, without a slash")
    parser.add_argument("--private", action="store_true", help="nobody else shall see a new repository")
    parser.add_argument("--revision", help="branch of the Hub repository, made if it is not there; default: main")
    arguments = parser.parse_args()
    folders = arguments.folders or shipped_models()
    if arguments.repo_id and "/" in arguments.repo_id and len(folders) != 1:
        parser.error(f"{arguments.repo_id} is one repository, and there are {len(folders)} folders: name one of them.")
    if arguments.output and (arguments.private or arguments.revision):
        parser.error("--private and --revision belong to --repo-id.")
    transformers.logging.disable_progress_bar()
    for folder in tqdm(folders, desc="repositories", unit="model"):
        try:
            where = publish(folder.resolve(), arguments)
        except (ValueError, OSError, HfHubHTTPError) as error:
            sys.exit(f"Error: {error}")
        tqdm.write(f"{folder.name}: {where}")


def publish(folder: Path, arguments: argparse.Namespace) -> str:
    """Assembles, proves, and then moves or pushes a repository. Returns where it is."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder.")
    repo_id = arguments.repo_id
    if repo_id and "/" not in repo_id:
        repo_id = f"{repo_id}/{folder.name}"
    with tempfile.TemporaryDirectory() as temporary:
        assembled = Path(temporary) / folder.name
        assemble(folder, assembled, repo_id)
        tqdm.write(prove(assembled), end="")
        if repo_id:
            return push(assembled, repo_id, arguments.private, arguments.revision)
        output = arguments.output / folder.name
        shutil.copytree(assembled, output, dirs_exist_ok=True)
        return str(output)


if __name__ == "__main__":
    main()
