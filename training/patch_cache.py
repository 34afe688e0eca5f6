"""The patch embeddings of a frozen encoder, computed once for each picture of a data set and read in place of pixels.

A cache is a folder: `cache.json` says of which encoder, preprocessing and rows it is; shards of `SHARD_ROWS` rows hold
`patch_embeddings` (n, h * w, Dv), the pictures to paint, `target_pixel_values` (n, 3, S, S) float32, and, as JSON in
the header, the rows' concepts.
"""

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from modeling_setok import SetokModel
from training.packaged_models.digest import weights_digest

INDEX = "cache.json"
SHARD_ROWS = 128
_OPEN_SHARDS = 4096  # their pages are the system's to keep or drop


class PatchCache:
    """A map-style dataset (`len`, `[index]`) of the first rows of a cache, whose files are mapped, not read whole.

    A row has `patch_embeddings` (h * w, Dv), `grid_size` (h, w), `target_pixel_values` (3, S, S) float32 and
    `concepts`.

    Args:
        folder: of a cache.
        num_rows: how many rows are used, those of the data set.
        fingerprint: what the cache must be of, see `patch_fingerprint`.

    Raises:
        ValueError: there is no cache, it lacks rows, or it is of something else.
    """

    def __init__(self, folder: str | Path, num_rows: int, fingerprint: Mapping[str, Any]):
        self.folder, self.num_rows = Path(folder), num_rows
        self.grid_size = tuple(_read_index(self.folder, fingerprint)["grid_size"])
        missing = [path.name for path in map(self._shard, range(_num_shards(num_rows))) if not path.is_file()]
        if missing:
            raise ValueError(
                f"{self.folder} lacks {len(missing)} of {_num_shards(num_rows)} shards, such as {missing[0]}: run "
                "training/cache_patches.py with this recipe; it goes on where it stopped."
            )

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -self.num_rows <= index < self.num_rows:
            raise IndexError(f"row {index} of {self.num_rows}")
        shard, row = divmod(int(index) % self.num_rows, SHARD_ROWS)
        tensors, concepts = _open(self._shard(shard))
        return {
            "patch_embeddings": tensors.get_slice("patch_embeddings")[row],
            "target_pixel_values": tensors.get_slice("target_pixel_values")[row],
            "grid_size": self.grid_size,
            "concepts": concepts[row],
        }

    def _shard(self, index: int) -> Path:
        return _shard_path(self.folder, index)


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
        "image_processor": json.loads(image_processor.to_json_string()),
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
    """Writes the shards that are not there yet; of several processes each writes every so-manieth.

    Args:
        rows: the data set; its rows have `concepts`, or None.
        collate: makes `pixel_values` and `target_pixel_values` of some rows.
        fingerprint: of all that, see `patch_fingerprint`.
        batch_size: pictures per run of the encoder.

    Raises:
        ValueError: the folder holds a cache of something else.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / INDEX).is_file():
        _read_index(folder, fingerprint)
    model.eval()
    dtype = getattr(torch, fingerprint["dtype"])
    shards = range(process_index, _num_shards(len(rows)), num_processes)
    for shard in tqdm(shards, desc="shards", disable=process_index > 0):
        path, first = _shard_path(folder, shard), shard * SHARD_ROWS
        last = min(first + SHARD_ROWS, len(rows))
        if path.is_file() and _holds(path) >= last - first:
            continue
        patches, targets, concepts = [], [], []
        for start in range(first, last, batch_size):
            batch_rows = [rows[index] for index in range(start, min(start + batch_size, last))]
            batch = collate(batch_rows)
            embeddings, grid_size = model.get_patch_embeddings(batch["pixel_values"].to(model.device))
            patches.append(embeddings.to("cpu", dtype))
            targets.append(batch["target_pixel_values"].float())
            concepts += [list(row.get("concepts") or ()) for row in batch_rows]
        tensors = {"patch_embeddings": torch.cat(patches), "target_pixel_values": torch.cat(targets)}
        _write(path, lambda file, t=tensors, c=concepts: save_file(t, file, {"concepts": json.dumps(c)}))
        if not (folder / INDEX).is_file():
            index = json.dumps({"grid_size": list(grid_size), **fingerprint}, indent=1)
            _write(folder / INDEX, lambda file, text=index: file.write_text(text, encoding="utf-8"))


def _read_index(folder: Path, fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder} holds no patch cache ({error}): run training/cache_patches.py with this recipe first."
        ) from error
    other = [name for name, value in fingerprint.items() if index.get(name) != value]
    if other:
        raise ValueError(
            f"The patch cache {folder} is of another {' and another '.join(other)} than this recipe asks for: choose "
            "another folder, or delete this one, and run training/cache_patches.py again."
        )
    return index


def _num_shards(num_rows: int) -> int:
    return math.ceil(num_rows / SHARD_ROWS)


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / f"patches-{shard:06d}.safetensors"


@lru_cache(maxsize=_OPEN_SHARDS)
def _open(path: Path) -> tuple[Any, list[list[str]]]:
    tensors = safe_open(path, framework="pt")
    return tensors, json.loads(tensors.metadata()["concepts"])


def _holds(path: Path) -> int:
    """Rows of a shard: the last one of a data set may grow with it."""
    with safe_open(path, framework="pt") as tensors:
        return tensors.get_slice("target_pixel_values").get_shape()[0]


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Whole or not at all, whoever is interrupted."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    write(part)
    part.replace(path)
