"""Data for training: EmojiScenes, loaders for data on disk and on the Hub, and the one schema of their rows."""

from .coco import CocoMasks, load_coco, load_coco_captions, load_refcoco
from .emoji_dataset import EmojiScenes
from .emoji_scenes import Layout, Scene, SceneConfig, is_held_out_pair, make_scene, render
from .loaders import load_hub_dataset, load_image_folder, load_image_folder_json
from .mixture import Mixture, mix
from .schema import FEATURES
from .sprites import concept_names
from .tasks import TASKS

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
