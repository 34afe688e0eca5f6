"""Makes a complete Hub repository of a model and its card, with a frozen encoder that was left out of its folder (see
`frozen_parts.py`), checks that it loads without this project, and publishes it:

python -m training.hub.push_to_hub --output build/hub [--skip-check]                   all of model_cards/, on disk
python -m training.hub.push_to_hub model_cards/setok-emoji-tiny --repo-id me/setok-emoji-tiny [--private] [--revision R]
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

import transformers
from huggingface_hub import HfApi
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import validate_repo_id
from tqdm.auto import tqdm
from transformers import AutoConfig, PreTrainedModel

import modeling_setok
from processing import SetokImageProcessor, SetokimProcessor
from training.hub.folder_checks import (
    LINKED_SUFFIXES,
    WEIGHTS,
    refuse_foreign_code,
    refuse_links,
    refuse_links_below,
    weight_files,
)
from training.hub.frozen_parts import complete, is_part
from training.hub.model_card import FILL_IN, NAMESPACE, ROOT, measured_card, read_json, read_text, shipped_models

_LINK = re.compile(r"""(?:\]\(|src=["'])(?:\./)?([^)"'#\s]+)""")


def assemble(folder: Path, output: Path, repo_ids: Mapping[str, str] | None = None) -> None:
    """Writes all of a Hub repository: weights, configurations, processor, chat template, code, card and its pictures.

    Args:
        folder: a model, its processor, `results.json` and `README.md`.
        output: may exist; files of other names stay, but for weights.
        repo_ids: the Hub ids by which the card shall call models, by the names of their folders.

    Raises:
        ValueError: for what would not load or would mislead: weights that are not safetensors or do not fit the
            configuration, a card with other numbers than the results file, links to files that are not there; for
            links in the file system, and code that is not ours.
    """
    check_files(folder)
    refuse_links_below(output)
    model, processor = load(folder)
    output.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(output, state_dict={})  # configurations and code; the weights are published as they are
    processor.save_pretrained(output)
    _remove_weights(output)
    for file in weight_files(folder):
        shutil.copyfile(file, output / file.name)
    text = (folder / "README.md").read_text(encoding="utf-8")
    (output / "README.md").write_text(_renamed(text, repo_ids or {}), encoding="utf-8")
    for name in ("results.json", *_links(text)):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, output / name)
    shutil.copyfile(ROOT / "LICENSE", output / "LICENSE")  # of the code


def check_files(folder: Path) -> None:
    """All that can be told without loading the model; see `assemble` for what is refused."""
    refuse_links(folder, ["README.md"])
    refuse_foreign_code(folder)
    up_to_date = measured_card(folder)
    weight_files(folder)
    if (folder / "tokenizer.json").exists():
        read_json(folder / "tokenizer.json", "save the processor again")
    template = folder / "chat_template.jinja"
    if template.exists() and not read_text(template).strip():
        raise ValueError(f"{template} is empty: save the processor again.")
    text = read_text(folder / "README.md")
    if text != up_to_date:
        raise ValueError(
            f"{folder / 'README.md'} does not say what results.json says: python -m training.hub.model_card {folder}"
        )
    if FILL_IN in text:
        raise ValueError(f"{folder / 'README.md'} is unfinished: write what its author has to ('{FILL_IN}: ...').")
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    missing = [name for name in _links(text) if name not in there]
    if missing:
        raise ValueError(f"{folder / 'README.md'} links to what is not in its folder: {', '.join(missing)}.")
    other = [name for name in _links(text) if not name.lower().endswith(LINKED_SUFFIXES) and name != "results.json"]
    if other:
        raise ValueError(
            f"{folder / 'README.md'} links to {', '.join(other)}, and of files beside a card only pictures and texts "
            f"({' '.join(LINKED_SUFFIXES)}) are published: link to an address, or leave it out."
        )
    refuse_links(folder, _links(text))


def load(folder: Path) -> tuple:
    """The model, in the dtype of its weights, and its processor."""
    try:
        config = AutoConfig.from_pretrained(folder)
        architectures = config.architectures if isinstance(config.architectures, list) else []
        architecture = str((architectures or ["none"])[0])
        model_class = getattr(modeling_setok, architecture, None)
        if not (isinstance(model_class, type) and issubclass(model_class, PreTrainedModel)):
            raise ValueError(f"{folder / 'config.json'} names {architecture} as its architecture, which is not ours.")
        processor_class = SetokimProcessor if config.model_type == "setokim" else SetokImageProcessor
        model, loading = model_class.from_pretrained(folder, output_loading_info=True)
        processor = processor_class.from_pretrained(folder)
    except Exception as error:  # of damaged files, libraries raise almost anything, the tokenizers' a bare Exception
        raise ValueError(f"{folder} does not load: {error or type(error).__name__}") from error
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
    """Makes the Hub repository what the folder is; without a change, nothing is committed. Returns its address.

    Raises:
        ValueError: it is there already, and public, though it should be private.
    """
    api = HfApi()
    repo_id = api.create_repo(repo_id, private=private or None, exist_ok=True).repo_id
    if private and not api.repo_info(repo_id).private:
        raise ValueError(f"{repo_id} exists and is public. Make it private in its settings, or leave out --private.")
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        revision=revision,
        commit_message="Publish the model",
        delete_patterns=[WEIGHTS],  # of another number of shards
    )
    return commit.commit_url


def _remove_weights(folder: Path) -> None:
    """Those of a former version, in another number of shards, would be loaded."""
    for file in folder.glob(WEIGHTS):
        file.unlink()


def _renamed(text: str, repo_ids: Mapping[str, str]) -> str:
    """The card with the names under which models are published."""
    pattern = rf"(?<![\w./-]){NAMESPACE}/([\w.-]*\w)"
    return re.sub(pattern, lambda match: repo_ids.get(match[1], match[0]), text)


def _links(text: str) -> list[str]:
    """Files beside the card that it shows or links to; the licence comes with the code."""
    targets = {unquote(target) for target in _LINK.findall(text) if not re.match(r"\w+:", target)}
    return sorted(targets - {"LICENSE"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="default: all of model_cards/")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--output", type=Path, help="local folder, in which each repository has one of its own")
    target.add_argument("--repo-id", help="repository on the Hub, or the user or organisation alone, without a slash")
    parser.add_argument("--private", action="store_true", help="nobody else shall see the repository")
    parser.add_argument("--revision", help="branch of the Hub repository, made if it is not there; default: main")
    parser.add_argument("--skip-check", action="store_true", help="do not load in fresh processes what was assembled")
    arguments = parser.parse_args()
    folders = [folder.resolve() for folder in arguments.folders] or shipped_models()
    if arguments.repo_id and "/" in arguments.repo_id and len(folders) != 1:
        parser.error(f"{arguments.repo_id} is one repository, and there are {len(folders)} folders: name one of them.")
    if arguments.output and (arguments.private or arguments.revision):
        parser.error("--private and --revision belong to --repo-id.")
    if arguments.repo_id and arguments.skip_check:
        parser.error("--skip-check belongs to --output: what is published was loaded before.")
    transformers.logging.disable_progress_bar()
    try:
        publish(folders, arguments)
    except (ValueError, OSError, HTTPError) as error:
        sys.exit(f"Error: {error}")


def publish(folders: list[Path], arguments: argparse.Namespace) -> None:
    """Assembles and proves all repositories, and only then moves or pushes them."""
    repo_ids = {}
    if arguments.repo_id:
        is_one = "/" in arguments.repo_id
        repo_ids = {f.name: arguments.repo_id if is_one else f"{arguments.repo_id}/{f.name}" for f in folders}
        for repo_id in repo_ids.values():
            validate_repo_id(repo_id)
        HfApi().whoami()  # raises now, not after the work, where there is no token or no network
    names = [folder.name for folder in folders]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"Several folders are called {', '.join(repeated)}, and so would one repository: rename them.")
    if arguments.output:
        for source in folders:
            if (arguments.output / source.name).resolve() == source.resolve():
                raise ValueError(f"--output {arguments.output} would write over {source}: choose another folder.")
            refuse_links_below(arguments.output / source.name)
    with tempfile.TemporaryDirectory() as temporary:
        assembled = [Path(temporary) / folder.name for folder in folders]
        done = "assembled" if arguments.skip_check else "assembled and proved"
        for source, folder in zip(folders, tqdm(assembled, desc=done, unit="model"), strict=True):
            if not source.is_dir():
                raise ValueError(f"{source} is not a folder.")
            if is_part(source):
                whole = Path(temporary) / "whole" / source.name
                complete(source, whole)
                source = whole
            assemble(source, folder, repo_ids)
            if not arguments.skip_check:
                tqdm.write(prove(folder), end="")
        for folder in assembled:
            if repo_ids:
                where = push(folder, repo_ids[folder.name], arguments.private, arguments.revision)
            else:
                where = arguments.output / folder.name
                _remove_weights(where)
                shutil.copytree(folder, where, dirs_exist_ok=True)
            print(f"{folder.name}: {where}")


if __name__ == "__main__":
    main()
