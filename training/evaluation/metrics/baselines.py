"""Groupings that a clustering has to beat at the same number of clusters."""

from collections.abc import Sequence

import numpy as np
from sklearn.cluster import KMeans


def kmeans_labels(features: np.ndarray, num_clusters: int, num_init: int = 1, seed: int = 0) -> np.ndarray:
    """k-means over the unit-normalised patch features of one image: features (N, D) -> (N,) int labels.

    Normalised because that is what the token clustering sees. At most as many clusters as there are distinct patches.
    """
    features = np.asarray(features, dtype=np.float32)
    features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    num_clusters = min(num_clusters, len(np.unique(features, axis=0)))
    return KMeans(num_clusters, n_init=num_init, random_state=seed).fit_predict(features)


def grid_labels(grid_size: Sequence[int], num_cells: int) -> np.ndarray:
    """Cuts the (h, w) patches into a chessboard of about `num_cells` equal cells: (h * w,) int labels.

    Takes the number of rows and columns whose product is nearest to `num_cells`, and of these the squarest cells.
    """
    height, width = grid_size
    if num_cells < 1:
        raise ValueError(f"num_cells must be at least 1, got {num_cells}.")
    choices = [(rows, columns) for rows in range(1, height + 1) for columns in range(1, width + 1)]
    rows, columns = min(
        choices, key=lambda c: (abs(c[0] * c[1] - num_cells), abs(np.log((height * c[1]) / (width * c[0]))))
    )
    row = np.arange(height) * rows // height
    column = np.arange(width) * columns // width
    return (row[:, None] * columns + column).ravel()
