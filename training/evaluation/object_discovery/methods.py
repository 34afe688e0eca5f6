"""Ways to cut a picture into segments: SeTok's, and those that it is compared with.

Each takes a `Picture`, a number of segments and a seed, and gives a map of integers: (h, w) on the patch grid, or
(H, W) pixels. All but SLIC, which sees pixels, cluster the very features that SeTok clusters, compared by their
direction.
"""

from collections.abc import Callable

import numpy as np
from skimage.segmentation import slic
from sklearn.cluster import spectral_clustering

from modeling_setok.density_peaks import cluster_tokens, unit_directions
from processing import sharpen_tokens
from training.evaluation.metrics import grid_labels, kmeans_labels
from training.evaluation.object_discovery.encoding import Picture

Method = Callable[[Picture, int, int], np.ndarray]


def setok(picture: Picture, num_segments: int, seed: int) -> np.ndarray:
    """The clusters that SeTok found; their number is its own."""
    return picture.cluster_ids.reshape(picture.grid_size)


def kmeans(picture: Picture, num_segments: int, seed: int) -> np.ndarray:
    """k-means, the best of 4 starts."""
    return kmeans_labels(picture.features.numpy(), num_segments, num_init=4, seed=seed).reshape(picture.grid_size)


def spectral(picture: Picture, num_segments: int, seed: int) -> np.ndarray:
    """Spectral clustering; the affinity of two patches is their cosine, or 0 where that is negative."""
    if num_segments == 1:
        return np.zeros(picture.grid_size, dtype=np.int64)
    directions = unit_directions(picture.features[None])[0][0].numpy().astype(np.float64)
    affinity = np.maximum(directions @ directions.T, 0)
    labels = spectral_clustering(affinity, n_clusters=num_segments, eigen_solver="arpack", random_state=seed)
    return labels.reshape(picture.grid_size)


def dpc_knn(picture: Picture, num_segments: int, seed: int) -> np.ndarray:
    """Density peaks with a given number of clusters, as Chat-UniVi merges tokens: the best scores rho * delta are the
    seeds, and a patch goes to the nearest seed. K is SeTok's."""
    clusters = cluster_tokens(
        picture.features[None],
        num_neighbors=picture.num_neighbors,
        criterion="product",
        assignment="nearest",
        fixed_tokens=num_segments,
    )
    return clusters.cluster_ids[0].numpy().reshape(picture.grid_size)


def grid(picture: Picture, num_segments: int, seed: int) -> np.ndarray:
    """A chessboard of about as many cells."""
    return grid_labels(picture.grid_size, num_segments).reshape(picture.grid_size)


def superpixels(picture: Picture, num_segments: int, seed: int) -> np.ndarray:
    """SLIC superpixels of the picture's own pixels, about as many, with scikit-image's settings."""
    return slic(picture.scene.image, n_segments=num_segments, start_label=0)


def sharpened(method: Method) -> Method:
    """The same, with borders moved to where the picture has them."""
    return lambda picture, num_segments, seed: sharpen_tokens(
        picture.scene.image, method(picture, num_segments, seed), picture.grid_size
    )


METHODS: dict[str, Method] = {
    "setok": setok,
    "setok_sharp": sharpened(setok),
    "kmeans": kmeans,
    "kmeans_sharp": sharpened(kmeans),
    "spectral_sharp": sharpened(spectral),
    "spectral": spectral,
    "dpc_knn": dpc_knn,
    "grid": grid,
    "slic": superpixels,
}
SHARP = ("setok_sharp", "kmeans_sharp", "spectral_sharp")  # where the picture is finer than the patches
# These have the same number of segments in every picture, the mean of SeTok's; the others SeTok's own in each
FIXED_NUMBER = ("dpc_knn", "slots")
