"""What may be published of a folder: files of its own, by an allow list, whose code is this project's."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import transformers

from training.hub.model_card import ROOT, read_json

WEIGHTS = "model*.safetensors*"  # and the index of shards
INDEX = "model.safetensors.index.json"
SHARD = r"model-\d{5}-of-\d{5}\.safetensors"
# What a card may show or link to beside it
LINKED_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg", ".pdf", ".md")
# Files in which transformers looks for code to run, or for names of classes
CONFIGURATIONS = (
    "config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json",
    "video_preprocessor_config.json", "feature_extractor_config.json", "tokenizer_config.json",
)  # fmt: skip
CLASS_KEYS = ("tokenizer_class", "processor_class", "image_processor_type", "feature_extractor_type")
CODE_KEYS = ("custom_pipelines", "custom_generate", "trust_remote_code")
OWN_MODULES = {
    path.stem: package for package in ("modeling_setok", "processing") for path in (ROOT / package).glob("*.py")
}


def weight_files(folder: Path) -> list[Path]:
    """The files of weights that a loader reads; what else is called like one is left out.

    Raises:
        ValueError: there are none, or an index that does not name shards beside it.
    """
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    index = folder / INDEX
    if not index.is_file():
        raise ValueError(f"{folder} has no {WEIGHTS}: weights are published in no other form. Use save_pretrained.")
    shards = read_json(index, "use save_pretrained").get("weight_map")
    names = set(map(str, shards.values())) if isinstance(shards, dict) else set()
    wrong = sorted(name for name in names if not re.fullmatch(SHARD, name) or not (folder / name).is_file())
    if wrong or not names:
        raise ValueError(f"{index} does not name shards beside it ({wrong[:3]}). Use save_pretrained.")
    return [index, *(folder / name for name in sorted(names))]


def refuse_links(folder: Path, names: list[str]) -> None:
    """Raises a `ValueError` that names a link among the folder's own files, or on the way to those named: what it
    leads to is not the model's."""
    tops = [path for path in folder.iterdir() if not path.is_dir() or path.name == "additional_chat_templates"]
    for name in (*(path.name for path in tops), *names):
        path = folder / name
        if path.resolve() != folder.resolve() / name:
            raise ValueError(f"{path} is a link to {path.resolve()}, and links are not published: put a copy there.")
    for path in (folder / "additional_chat_templates").glob("*"):
        if path.is_symlink():
            raise ValueError(f"{path} is a link, and links are not published: put a copy there.")


def refuse_links_below(folder: Path) -> None:
    """Raises a `ValueError` that names a link in a folder to be written to: what is written would land elsewhere."""
    for path in (folder, *folder.rglob("*")):
        if path.is_symlink():
            raise ValueError(f"{path} is a link, and would be written through: remove it, or choose another --output.")


def refuse_foreign_code(folder: Path) -> None:
    """Raises a `ValueError` that names a reference to code other than this project's, before anything is loaded."""
    for file in (folder / name for name in CONFIGURATIONS):
        if not file.exists():
            continue
        for key, value in _entries(read_json(file, "save it again")):
            if key == "auto_map":
                foreign = [text for text in _texts(value) if not _is_own(text)]
            elif key in CODE_KEYS:
                foreign = [value] if value else []
            elif key in CLASS_KEYS:
                foreign = [text for text in _texts(value) if not _is_known_class(text)]
            elif str(key).endswith("attn_implementation"):  # transformers would fetch it as a kernel
                foreign = [text for text in _texts(value) if "/" in text]
            else:
                continue
            if foreign:
                raise ValueError(
                    f"{file} refers by {key} to code that is not this project's: {foreign[0]!r}. Delete the entry; "
                    "a repository holds this project's code and runs no other."
                )


def _entries(value: object) -> Iterator[tuple[str, object]]:
    """Keys and values of mappings, however deep."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _entries(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner)


def _texts(value: object) -> Iterator[str]:
    """The leaves of a value, as texts; null is none."""
    if isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
    elif value is not None:
        yield str(value)


def _is_own(reference: str) -> bool:
    """Whether "module.Class" is of this project."""
    module, _, name = reference.partition(".")
    return module in OWN_MODULES and isinstance(
        getattr(import_module(f"{OWN_MODULES[module]}.{module}"), name, None), type
    )


def _is_known_class(name: str) -> bool:
    return isinstance(getattr(transformers, name, None), type) or any(
        isinstance(getattr(import_module(package), name, None), type) for package in set(OWN_MODULES.values())
    )
