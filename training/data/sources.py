"""The data of a recipe: a list of parts, each with its weight in the mixture.

A part is a mapping:

- `{dataset: emoji_scenes, task: caption, weight: 3}`, with any of `vocabulary`, `styles`, `image_size`, `seed`, and, of
  the training scenes, `redrawn`; or `{name: reading, dataset: emoji_scenes, tasks: [caption, question],
  rows_per_scene: 4}` with several rows about each scene;
- `{dataset: coco, annotations: FILE, images: FOLDER}`: masks of categories, also `coco_captions`; `{dataset: refcoco,
  refs: FILE, annotations: FILE, images: FOLDER}`: referring expressions of the split "train";
- `{dataset: easy_vqa}`: the questions of its split "train", from the package `easy-vqa`, or from `folder`;
- `{dataset: FOLDER}`: `data.json` and `images/`;
- `{dataset: HUB_ID}`: its split "train".

Its other keys are arguments of the loader (see `readers/`), such as `split`, `columns` or `on_error`.
`held_out: 200`, of data in files, keeps the first 200 rows from training, and all others about their pictures; `--data`
of `evaluate_setokim` takes the same part, and measures these. `weight` is 1 by default. `name` sets what a part is
called in logs; by default its task, or its dataset.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import yaml

from .emoji_scenes import EmojiScenes, SceneConfig
from .held_out import StoredRows, split_off
from .mixture import Mixture, mix
from .readers import (
    load_coco,
    load_coco_captions,
    load_easy_vqa,
    load_hub_dataset,
    load_image_folder_json,
    load_refcoco,
)
from .setokim_collator import LongRows

_LARGEST = 2**31  # scenes of an EmojiScenes part: more than any training sees


@dataclass
class MixtureArguments:
    mixture: list[dict] = field(
        default_factory=list, metadata={"help": "the data and their weights (see training/data/sources.py)"}
    )
    train_examples: int = field(default=100_000, metadata={"help": "rows of the mixture in one epoch"})
    eval_examples: int = field(
        default=64, metadata={"help": "rows to evaluate on from each EmojiScenes part's validation split; 0: none"}
    )
    long_rows: LongRows = field(
        default="refuse", metadata={"help": "what becomes of rows longer than max_length: 'refuse', 'skip' or 'cut'"}
    )
    token_cache: str | None = field(
        default=None, metadata={"help": "folder that cache_tokens.py filled, read in place of pixels"}
    )


def load_mixture(parts: list[dict], num_rows: int, seed: int = 0) -> Mixture:
    """The training rows of a recipe's `mixture`, as `mix` gives them.

    Raises:
        ValueError: for a part that is not as above, two of one name, and what the loaders and `mix` refuse.
    """
    named = _named(parts)
    weights = {name: part.get("weight", 1) for name, part in named.items()}
    return mix({name: load_part(part, "train") for name, part in named.items()}, weights, num_rows, seed)


def load_eval_sets(parts: list[dict], num_rows: int) -> dict[str, list[dict]]:
    """Rows to evaluate each task of each EmojiScenes part on, from the validation split; the other parts have no such
    split here."""
    if num_rows == 0:
        return {}
    sets = {}
    for name, part in _named(parts).items():
        if part["dataset"] == "emoji_scenes":
            load_part(part, "validation")  # refuses what is wrong with it
            common = {key: value for key, value in part.items() if key not in ("tasks", "rows_per_scene")}
            several = {f"{name}_{task}": common | {"task": task} for task in part.get("tasks", ())}
            for name_of_set, of_task in (several or {name: part}).items():
                sets[name_of_set] = list(islice(load_part(of_task, "validation"), num_rows))
    return sets


def load_part(part: dict, split: str):
    """The rows of one part, from this split where the data have splits and the part names none, without those that it
    holds out. All have an answer to learn: others are bad rows here."""
    rows, _ = _load(part, split)
    return split_off(rows, part["held_out"])[0] if "held_out" in part else rows


@dataclass(frozen=True)
class HeldOut:
    """Rows to measure a model on.

    Attributes:
        name: of the data, for people, without the folders above it.
        rows: map-style, of `schema.FEATURES`.
        told: which rows these are, and what is known of whether training saw them.
    """

    name: str
    rows: StoredRows
    told: str


def load_held_out(part: dict, split: str) -> HeldOut:
    """Of one part what it holds out; else the rows of this split where the data have splits and the part names none;
    else all.

    Raises:
        ValueError: EmojiScenes, and what the loaders refuse.
    """
    _named([part])  # refuses what is no part
    if part["dataset"] == "emoji_scenes":
        raise ValueError("EmojiScenes are no data of one's own: leave --data out, and they are measured.")
    name = Path(str(part["dataset"])).name if Path(str(part["dataset"])).is_dir() else str(part["dataset"])
    if "held_out" in part:
        rows, read = _load(part, "train")
        rows = split_off(rows, part["held_out"])[1]
        kept = f"which held_out: {part['held_out']} keeps from training"
    else:
        rows, read = _load(part, split)
        kept = "" if read else "and whether training saw them is not known: no split and no held_out names them"
        if str(read).startswith("train"):
            kept = "which is what training reads"
    of_split = f", split {read}" if read else ""
    return HeldOut(name, rows, ", ".join(filter(None, [f"{len(rows)} rows of {name}{of_split}", kept])))


def read_part(text: str) -> dict:
    """A part as the command line has it: a mapping in YAML, or the dataset alone.

    Raises:
        ValueError: it begins as a mapping and is none.
    """
    if not text.lstrip().startswith("{"):
        return {"dataset": text}
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{text} is not YAML: {error}") from error


def _load(part: dict, split: str) -> tuple[StoredRows | EmojiScenes, str | None]:
    """All rows of one part, and the split that they are; `None` where the data have none."""
    options = {key: value for key, value in part.items() if key not in ("dataset", "weight", "name", "held_out")}
    dataset = str(part["dataset"])
    if dataset in LOADERS:
        load = LOADERS[dataset]
    elif Path(dataset).is_dir():
        load = partial(load_image_folder_json, dataset)
    else:
        load = partial(load_hub_dataset, dataset)
    signature = inspect.signature(load)
    for key, value in (("split", split), ("needs", "answer")):
        if key in signature.parameters:
            options.setdefault(key, value)
    try:
        signature.bind(**options)
    except TypeError as error:
        raise ValueError(f"The part {part} of the mixture is wrong: {error}.") from error
    return load(**options), options.get("split")


def _load_emoji_scenes(
    split: str,
    task: str | None = None,
    tasks: Sequence[str] = (),
    seed: int = EmojiScenes.seed,
    vocabulary: str = SceneConfig.vocabulary,
    image_size: int = SceneConfig.image_size,
    styles: Sequence[str] = SceneConfig.styles,
    redrawn: float = SceneConfig.redrawn,
    rows_per_scene: int = EmojiScenes.rows_per_scene,
) -> EmojiScenes:
    if (task is None) == (not tasks):
        raise ValueError("A part with EmojiScenes needs its task, such as task: caption, or tasks, a list of them.")
    tasks = tasks or (task,)
    if "concepts" in tasks:
        raise ValueError("The task concepts of EmojiScenes has no conversation to learn from: it trains SeTok.")
    redrawn = redrawn if split == "train" else 0.0
    scenes = SceneConfig(vocabulary=vocabulary, image_size=image_size, styles=tuple(styles), redrawn=redrawn)
    return EmojiScenes(split, _LARGEST, scenes, tasks=tasks, seed=seed, rows_per_scene=rows_per_scene)


LOADERS = {
    "emoji_scenes": _load_emoji_scenes,
    "coco": load_coco,
    "coco_captions": load_coco_captions,
    "refcoco": load_refcoco,
    "easy_vqa": load_easy_vqa,
}


def _named(parts: list[dict]) -> dict[str, dict]:
    if not parts:
        raise ValueError("The recipe needs a mixture: a list of parts, such as {dataset: emoji_scenes, task: caption}.")
    named = {}
    for part in parts:
        if not isinstance(part, dict) or "dataset" not in part:
            raise ValueError(f"A part of the mixture needs the key dataset, got {part!r}.")
        name = str(part.get("name", part.get("task", part["dataset"])))
        if name in named:
            raise ValueError(f"Two parts of the mixture are called {name!r}: give one of them another name.")
        named[name] = part
    return named
