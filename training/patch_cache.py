"""The patch embeddings of a frozen encoder, computed once for each picture of a data set and read in place of pixels.

A shard holds `patch_embeddings` (n, h * w, Dv), the pictures to paint, `target_pixel_values` (n, 3, S, S) float32, and,
as JSON in the header, the rows' concepts. The index has the `grid_size` [h, w].
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from modeling_setok import SetokModel
from training.packaged_models.digest import weights_digest
from training.shards import ShardContents, ShardedRows, Shards, computing_settings, open_shard

SHARD_ROWS = 128


class PatchCache(ShardedRows):
    """The first `num_rows` rows of a cache, as a map-style dataset (see `ShardedRows`).

    A row has `patch_embeddings` (h * w, Dv), `grid_size` (h, w), `target_pixel_values` (3, S, S) float32 and
    `concepts`.

    Args:
        folder: of a cache.
        fingerprint: what the cache must be of, see `patch_fingerprint`.
    """

    def __init__(self, folder: str | Path, num_rows: int, fingerprint: Mapping[str, Any]):
        super().__init__(_shards(folder), num_rows, fingerprint)
        self.grid_size = tuple(self.index["grid_size"])

    def read(self, path: Path, row: int) -> dict[str, Any]:
        shard = open_shard(path)
        return {
            "patch_embeddings": shard.get_slice("patch_embeddings")[row],
            "target_pixel_values": shard.get_slice("target_pixel_values")[row],
            "grid_size": self.grid_size,
            "concepts": _concepts(path)[row],
        }


def patch_fingerprint(
    model: SetokModel, image_processor, rows_of: str, target_size: int, dtype: str = "float16"
) -> dict[str, Any]:
    """What the contents of a cache follow from: another encoder, other pixels or other rows make another cache.

    Args:
        rows_of: says of which rows, in which order; their number does not matter.
        target_size: side of the pictures to paint.
        dtype: in which embeddings are kept. float16 rounds them by less than a two-thousandth.
    """
    return {
        "encoder": weights_digest(model.vision_encoder),
        "vision_feature_layer": model.config.vision_feature_layer,
        "image_processor": computing_settings(json.loads(image_processor.to_json_string())),
        "rows": rows_of,
        "target_size": target_size,
        "dtype": dtype,
    }


@torch.no_grad()
def write_patch_cache(
    folder: str | Path,
    rows: Sequence[Mapping[str, Any]],
    collate: Callable[[list], Mapping[str, torch.Tensor]],
    model: SetokModel,
    fingerprint: Mapping[str, Any],
    batch_size: int = 16,
    process_index: int = 0,
    num_processes: int = 1,
) -> None:
    """Writes the shards that are not there yet, as `Shards.write` does.

    Args:
        rows: the data set; its rows have `concepts`, or None.
        collate: makes `pixel_values` and `target_pixel_values` of some rows.
        fingerprint: of all that, see `patch_fingerprint`.
        batch_size: pictures per run of the encoder.
    """
    model.eval()
    dtype = getattr(torch, fingerprint["dtype"])

    def make(indices: range) -> ShardContents:
        patches, targets, concepts = [], [], []
        for start in range(0, len(indices), batch_size):
            batch_rows = [rows[index] for index in indices[start : start + batch_size]]
            batch = collate(batch_rows)
            embeddings, grid_size = model.get_patch_embeddings(batch["pixel_values"].to(model.device))
            patches.append(embeddings.to("cpu", dtype))
            targets.append(batch["target_pixel_values"].float())
            concepts += [list(row.get("concepts") or ()) for row in batch_rows]
        tensors = {"patch_embeddings": torch.cat(patches), "target_pixel_values": torch.cat(targets)}
        return ShardContents(tensors, {"concepts": json.dumps(concepts)}, {"grid_size": list(grid_size)})

    _shards(folder).write(len(rows), fingerprint, make, process_index, num_processes)


def _shards(folder: str | Path) -> Shards:
    return Shards(Path(folder), "patches", SHARD_ROWS, counted="target_pixel_values")


@cache
def _concepts(path: Path) -> list[list[str]]:
    return json.loads(open_shard(path).metadata()["concepts"])
