"""The data of a recipe: a list of parts, each with its weight in the mixture.

A part is a mapping:

- `{dataset: emoji_scenes, task: caption, weight: 3}`, with any of `vocabulary`, `image_size`, `seed`;
- `{dataset: coco, annotations: FILE, images: FOLDER, weight: 1}`;
- `{dataset: FOLDER, weight: 1}`: `data.json` and `images/`;
- `{dataset: HUB_ID, split: train, weight: 1}`, with any of `columns` and other arguments of `load_hub_dataset`.

`name` sets what a part is called in logs; by default its task, or its dataset.
"""

from pathlib import Path

from .emoji_dataset import EmojiScenes
from .emoji_scenes import SceneConfig
from .loaders import load_hub_dataset, load_image_folder_json
from .mixture import mix

_LARGEST = 2**31  # scenes of an EmojiScenes part: more than any training sees


def load_mixture(parts: list[dict], num_rows: int, seed: int = 0):
    """The training rows of a recipe's `mixture`, as `mix` gives them."""
    named = _named(parts)
    weights = {name: part["weight"] for name, part in named.items()}
    return mix({name: load_part(part, "train") for name, part in named.items()}, weights, num_rows, seed)


def load_eval_sets(parts: list[dict], num_rows: int) -> dict[str, list[dict]]:
    """Rows to evaluate each EmojiScenes part on, from the validation split; the other parts have no such split here."""
    if num_rows == 0:
        return {}
    return {
        name: [row for _, row in zip(range(num_rows), load_part(part, "validation"), strict=False)]
        for name, part in _named(parts).items()
        if part["dataset"] == "emoji_scenes"
    }


def load_part(part: dict, split: str):
    """The rows of one part."""
    options = {key: value for key, value in part.items() if key not in ("dataset", "weight", "name")}
    dataset = part["dataset"]
    if dataset == "emoji_scenes":
        scenes = SceneConfig(**{key: options.pop(key) for key in ("vocabulary", "image_size") if key in options})
        return EmojiScenes(split, _LARGEST, scenes, tasks=(options.pop("task"),), **options)
    if dataset == "coco":
        from .coco import load_coco

        return load_coco(**options)
    if Path(dataset).is_dir():
        return load_image_folder_json(dataset, **options)
    return load_hub_dataset(dataset, **({"split": split} | options))


def _named(parts: list[dict]) -> dict[str, dict]:
    if not parts:
        raise ValueError("The recipe needs a mixture: a list of parts, such as {dataset: emoji_scenes, task: caption}.")
    named = {}
    for part in parts:
        if not isinstance(part, dict) or "dataset" not in part:
            raise ValueError(f"A part of the mixture needs the key dataset, got {part!r}.")
        name = part.get("name", part.get("task", part["dataset"]))
        if name in named:
            raise ValueError(f"Two parts of the mixture are called {name!r}: give one of them another name.")
        named[name] = {"weight": 1} | part
    return named
