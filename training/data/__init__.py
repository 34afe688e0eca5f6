"""Data for training: EmojiScenes, loaders for data on disk and on the Hub, and the one schema of their rows."""

from .emoji_dataset import EmojiScenes
from .emoji_scenes import Layout, Scene, SceneConfig, is_held_out_pair, make_scene, render
from .loaders import load_hub_dataset, load_image_folder, load_image_folder_json
from .schema import FEATURES
from .sprites import concept_names
from .tasks import TASKS

__all__ = [
    "FEATURES",
    "TASKS",
    "EmojiScenes",
    "Layout",
    "Scene",
    "SceneConfig",
    "concept_names",
    "is_held_out_pair",
    "load_hub_dataset",
    "load_image_folder",
    "load_image_folder_json",
    "make_scene",
    "render",
]
