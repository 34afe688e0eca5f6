"""Pictures whose features are the answer."""

import numpy as np
import torch

from training.data.sprite_worlds import SpriteScene
from training.evaluation.object_discovery.encoding import Picture


def planted_picture(num_objects: int, seed: int = 0) -> Picture:
    """A picture of 24 pixels and 8 x 8 patches with objects of 3 x 2 patches, each of a colour and a direction of its
    own. SeTok's clusters are the truth."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((8, 8), dtype=np.int64)
    for index in range(num_objects):
        row, column = divmod(index, 3)
        labels[4 * row : 4 * row + 3, 3 * column : 3 * column + 2] = index + 1
    pixels = np.kron(labels, np.ones((3, 3), dtype=np.int64))
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [255, 0, 255]], np.uint8)
    scene = SpriteScene(
        colours[pixels],
        pixels == np.arange(1, num_objects + 1)[:, None, None],
        [f"object {n}" for n in range(num_objects)],
    )
    features = np.eye(8)[labels.ravel()] + 0.02 * rng.normal(size=(64, 8))
    return Picture(scene, torch.tensor(features, dtype=torch.float32), (8, 8), labels.ravel(), num_neighbors=4)
