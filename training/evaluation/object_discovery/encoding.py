"""Models whose clusters are measured, and what they make of scenes: features, computed once, and clusters."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from modeling_setok import SetokConfig, SetokModel
from processing import SetokImageProcessor
from training.evaluation.any_setok import holds_setok, load_setok
from training.evaluation.object_discovery.worlds import DiscoveryScene


@dataclass(frozen=True, eq=False)
class Picture:
    """A scene with what all methods may see of it.

    Attributes:
        scene: the picture and the truth about it.
        features: (N, D) float32 on the CPU, the vectors that SeTok's clustering compares, in reading order.
        grid_size: (h, w) patches, N = h * w.
        cluster_ids: (N,) int64, SeTok's clusters.
        num_neighbors: K of SeTok's clustering.
    """

    scene: DiscoveryScene
    features: torch.Tensor
    grid_size: tuple[int, int]
    cluster_ids: np.ndarray
    num_neighbors: int

    @property
    def num_clusters(self) -> int:
        """How many clusters SeTok found."""
        return int(self.cluster_ids.max()) + 1


def load_model(
    folder: str, image_size: int | None = None, **settings: int | str | None
) -> tuple[SetokModel, SetokImageProcessor]:
    """A SeTok, or one made around a vision encoder, and its image processor.

    Args:
        folder: of a SeTok, or of any vision encoder of transformers.
        image_size: side in pixels to which pictures are resized; by default what the model's own processor says.
        settings: of the `SetokConfig` made for an encoder, where they are not None. A SeTok has its own.

    Raises:
        ValueError: settings for a SeTok; no model in the folder.
    """
    settings = {key: value for key, value in settings.items() if value is not None}
    is_setok = holds_setok(folder)
    if is_setok and settings:
        raise ValueError(f"{folder} holds a SeTok, which has its own {', '.join(settings)}: leave them out.")
    # Around an encoder no merger is made, for none is run
    model, image_processor = load_setok(folder, SetokConfig(num_inner_layers=0, num_inter_layers=0, **settings))
    if image_size is not None:
        image_processor.size = {"height": image_size, "width": image_size}
    if not is_setok and "num_neighbors" not in settings:
        blank = torch.zeros(1, 3, image_processor.size["height"], image_processor.size["width"])
        with torch.no_grad():
            _, (height, width) = model.get_patch_embeddings(blank)
        model.config.num_neighbors = scaled_neighbors(6, 729, height * width)
    return model, image_processor


def scaled_neighbors(num_neighbors: int, num_patches: int, new_num_patches: int) -> int:
    """K that stands for as large a part of the picture on another grid; at least 4."""
    return max(4, round(num_neighbors * new_num_patches / num_patches))


def patch_embeddings(
    model: SetokModel, image_processor: SetokImageProcessor, scenes: Iterable[DiscoveryScene]
) -> Iterator[tuple[DiscoveryScene, torch.Tensor, tuple[int, int]]]:
    """Each scene with its patch embeddings (1, N, Dv) float32 on the model's device, and their grid (h, w)."""
    for scene in scenes:
        pixel_values = image_processor([scene.image], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            patches, grid_size = model.get_patch_embeddings(pixel_values.to(model.device))
        yield scene, patches.float(), tuple(grid_size)


def calibrate(model: SetokModel, image_processor: SetokImageProcessor, scenes: Iterable[DiscoveryScene]) -> float:
    """Sets the model's S, and returns it."""
    encoded = patch_embeddings(model, image_processor, scenes)
    return model.token_clustering.calibrate([patches for _, patches, _ in encoded])


def encode(
    model: SetokModel, image_processor: SetokImageProcessor, scenes: Iterable[DiscoveryScene]
) -> Iterator[Picture]:
    """Each scene with its features and SeTok's clusters."""
    for scene, patches, grid_size in patch_embeddings(model, image_processor, scenes):
        with torch.no_grad():
            clusters, _ = model.token_clustering(patches)
            features = model.token_clustering.clustering_features(patches)
        cluster_ids = clusters.cluster_ids[0].cpu().numpy()
        yield Picture(scene, features[0].cpu(), grid_size, cluster_ids, model.config.num_neighbors)
