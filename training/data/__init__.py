"""Data for training: the synthetic world of EmojiScenes, readers of other data, and the one schema of their rows."""

from .emoji_scenes import (
    TASKS,
    EmojiScenes,
    Layout,
    Scene,
    SceneConfig,
    concept_names,
    is_held_out_pair,
    make_scene,
    render,
)
from .mixture import Mixture, mix
from .readers import (
    CocoMasks,
    load_coco,
    load_coco_captions,
    load_hub_dataset,
    load_image_folder,
    load_image_folder_json,
    load_refcoco,
)
from .schema import FEATURES

__all__ = [
    "FEATURES",
    "TASKS",
    "CocoMasks",
    "EmojiScenes",
    "Layout",
    "Mixture",
    "Scene",
    "SceneConfig",
    "concept_names",
    "is_held_out_pair",
    "load_coco",
    "load_coco_captions",
    "load_hub_dataset",
    "load_image_folder",
    "load_image_folder_json",
    "load_refcoco",
    "make_scene",
    "mix",
    "render",
]
