"""What the frozen SeTok makes of the pictures of a mixture or a stream, computed once and read in place of pixels.

Rows are kept by their number in the mixture, whole, their messages as JSON: the text of a scene follows from what was
drawn, so making it anew would cost what the picture costs. It is not tokenized, so that the cache fits any language
model. SeTok runs in float32 whatever precision the training has: under autocast to bfloat16 some pictures get other
tokens. Kept in float16, tokens would change the losses by 2e-5 (setokim-emoji-tiny), patch embeddings by 1e-6.

A shard holds

- `text` (bytes,) uint8, one JSON object for each row, and `text_places` (n, 2), where that begins and ends. It has
  `task`, `messages`, and the places of the row in what follows;
- `concept_tokens` (T, D) float32, those of each picture one after the other, once for all rows that show it;
- of the first picture of rows with masks, once as well, `patch_embeddings` (J, h * w, Dv) float16 and `cluster_ids`
  (J, h * w) int32, and those `masks` (M, H, W) bool, at the size of the pixel values. No other loss asks for patches.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import Subset

from modeling_setok import SetokModel
from training.data.mixture import Mixture
from training.data.sources import MixtureArguments
from training.data.streams import RowStream
from training.packaged_models.digest import weights_digest
from training.shards import ShardContents, ShardedRows, Shards, computing_settings, open_shard

SHARD_ROWS = 512
_FIRST_ROWS = 16  # of a stream, by which it is known


class TokenCache(ShardedRows):
    """The rows of a mixture from a cache, as a map-style dataset (see `ShardedRows`), for `SetokimCollator`.

    A row has `task`, `messages` and `concept_tokens`, a list of one (n_i, D) float32 for each of its pictures. A row
    with masks has `masks` (m, H, W) bool and, of its first picture, `patch_embeddings` (h * w, Dv), `cluster_ids`
    (h * w,) and `grid_size` (h, w).

    Args:
        folder: of a cache.
        num_rows: of the mixture.
        fingerprint: what the cache must be of, see `token_fingerprint`.
    """

    def __init__(self, folder: str | Path, num_rows: int, fingerprint: Mapping[str, Any]):
        super().__init__(_shards(folder), num_rows, fingerprint)

    def of_tasks(self, tasks: Sequence[str]) -> Subset:
        """The rows of these tasks alone.

        Raises:
            ValueError: the cache has no row of one of them.
        """
        rows_of = defaultdict(list)
        for row in range(len(self)):
            shard, place = divmod(row, self.shards.rows_per_shard)
            rows_of[_text(open_shard(self.shards.path(shard)), place)["task"]].append(row)
        if lacking := sorted(set(tasks) - rows_of.keys()):
            raise ValueError(f"{self.shards.folder} has no rows of {', '.join(lacking)}, only of {', '.join(rows_of)}.")
        return Subset(self, sorted(row for task in set(tasks) for row in rows_of[task]))

    def read(self, path: Path, row: int) -> dict[str, Any]:
        shard = open_shard(path)
        text = _text(shard, row)
        found = {"task": text["task"], "messages": text["messages"], "concept_tokens": []}
        for start, end in text["concept_tokens"]:
            found["concept_tokens"].append(shard.get_slice("concept_tokens")[start:end])
        if "masks" in text:
            start, end = text["masks"]
            found |= {
                "masks": shard.get_slice("masks")[start:end],
                "patch_embeddings": shard.get_slice("patch_embeddings")[text["patches"]],
                "cluster_ids": shard.get_slice("cluster_ids")[text["patches"]],
                "grid_size": tuple(text["grid_size"]),
            }
        return found


def from_token_cache(
    args: MixtureArguments, rows: Mixture | RowStream, setok: SetokModel, image_processor
) -> Mixture | RowStream | TokenCache | Subset:
    """The rows to train on: a recipe's from the cache that it names, or themselves. Of a stream the cache holds the
    first `train_examples`, which are then read as a mixture's are.

    Raises:
        ValueError: the cache is of other rows (see `Shards.check`), or has none of `cached_tasks`.
    """
    if args.token_cache is None:
        if args.cached_tasks:
            raise ValueError(
                "cached_tasks are tasks of a token_cache: name one, or give the mixture those tasks alone."
            )
        return rows
    fingerprint = token_fingerprint(setok, image_processor, args.mixture, rows)
    num_rows = args.train_examples if isinstance(rows, RowStream) else len(rows)
    cache = TokenCache(args.token_cache, num_rows, fingerprint)
    return cache.of_tasks(args.cached_tasks) if args.cached_tasks else cache


def refuse_trained_setok(model: nn.Module) -> None:
    """Raises a `ValueError` if a parameter of the SeTok inside a Setokim, adapters included, is trained."""
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if any("setok" in name.split(".") for name in trained):
        raise ValueError(
            "token_cache holds what SeTok gave before training, and here it is trained: leave it out of trainable, or "
            "of lora's target_modules and modules_to_save, or leave out token_cache."
        )


def token_fingerprint(
    setok: SetokModel, image_processor, parts: list[dict], rows: Mixture | RowStream
) -> dict[str, Any]:
    """What the contents of a cache follow from: another SeTok, other pixels or other rows make another cache.

    Rows are told by what the recipe says of each part, by their order, and by the first row of each part (of a stream,
    by its first rows, and by how long rows may be), pictures included: so a data set that has changed, or code that
    draws other scenes, is most likely found out.

    Args:
        parts: the recipe's `mixture`.
        rows: of it.
    """
    digest = hashlib.sha256()
    streamed = isinstance(rows, RowStream)
    without = ("name",) if streamed else ("name", "weight")
    settings = [{key: value for key, value in part.items() if key not in without} for part in parts]
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    if streamed:
        lengths = rows.lengths
        limits = (None,) if lengths is None else (lengths.max_length, lengths.image_tokens, lengths.long_rows)
        digest.update(json.dumps([rows.seed, rows.shuffle_buffer, *limits]).encode())
        if lengths is not None and lengths.max_length is not None:
            digest.update(lengths.processor.tokenizer.backend_tokenizer.to_str().encode())
        first = list(islice(rows, _FIRST_ROWS))
    else:
        for order in (rows.part_of, rows.row_of):
            digest.update(np.ascontiguousarray(order, dtype=np.int64).tobytes())
        first = [rows[index] for index in np.unique(rows.part_of, return_index=True)[1].tolist()]
    for row in first:
        digest.update(json.dumps(row["messages"], sort_keys=True).encode())
        for picture in (*row["images"], *(row["masks"] or ())):
            digest.update(_pixels(picture))
    return {
        "SeTok": weights_digest(setok),
        "configuration of SeTok": json.loads(json.dumps(computing_settings(setok.config.to_dict()))),
        "image processor": computing_settings(json.loads(image_processor.to_json_string())),
        "mixture": digest.hexdigest(),
    }


@torch.no_grad()
def write_token_cache(
    folder: str | Path,
    rows: Mixture | RowStream,
    num_rows: int,
    collate: Callable[[list], Mapping[str, torch.Tensor]],
    setok: SetokModel,
    fingerprint: Mapping[str, Any],
    batch_size: int = 16,
    process_index: int = 0,
    num_processes: int = 1,
) -> None:
    """Writes the shards that are not there yet, as `Shards.write` does. Of a stream each process writes the rows that
    it reads, and each shard says where the stream was after it: so it takes as many processes to go on.

    Args:
        num_rows: of the cache, the first of these rows.
        collate: makes `pixel_values` and `masks` of some rows, all that they have, in reading order.
        fingerprint: of all that, see `token_fingerprint`.
        batch_size: rows whose pictures SeTok encodes together.

    Raises:
        ValueError: rows with masks and a SeTok with soft ones, or patch embeddings beyond float16.
    """
    setok.eval()
    shards = _shards(folder)
    if isinstance(rows, RowStream):
        fingerprint = {**fingerprint, "number of processes": num_processes}
        batches = partial(_batches_of_stream, shards, rows, process_index, num_processes)
    else:
        batches = partial(_batches_of_mixture, rows)

    def make(indices: range) -> ShardContents:
        contents, header = _Contents(setok), None
        for batch_rows, state in batches(indices, batch_size):
            batch, header = collate(batch_rows), state
            contents.add(batch_rows, batch.get("pixel_values"), batch.get("masks"))
        return ShardContents(contents.tensors(), header)

    shards.write(num_rows, fingerprint, make, process_index, num_processes)


def _batches_of_mixture(rows: Mixture, indices: range, batch_size: int) -> Iterator[tuple[list[dict], None]]:
    for start in range(0, len(indices), batch_size):
        yield [rows[index] for index in indices[start : start + batch_size]], None


def _batches_of_stream(
    shards: Shards, stream: RowStream, process_index: int, num_processes: int, indices: range, batch_size: int
) -> Iterator[tuple[list[dict], dict[str, str]]]:
    """The rows of a shard, and where the stream is after each batch. It goes on where this process's last shard was."""
    before = indices.start // shards.rows_per_shard - num_processes
    state = json.loads(open_shard(shards.path(before)).metadata()["stream"]) if before >= 0 else None
    consumer = stream.consumer(process_index, num_processes, state)
    for start in range(0, len(indices), batch_size):
        rows = list(islice(consumer, len(indices[start : start + batch_size])))
        yield rows, {"stream": json.dumps(consumer.state_dict())}


class _Contents:
    """Of a shard, as its rows come in. A picture that several rows show is encoded and kept once, but for one whose
    masks come after other rows about it: that is encoded again."""

    def __init__(self, setok: SetokModel):
        self.setok = setok
        self.texts, self.tokens, self.patches, self.cluster_ids, self.masks = [], [], [], [], []
        self.num_tokens = self.num_masks = 0
        self.token_places: dict[bytes, list[int]] = {}  # by digest of the picture, as are those of patches
        self.patch_places: dict[bytes, int] = {}

    def add(self, rows: list[dict], pixel_values: torch.Tensor | None, masks: torch.Tensor | None) -> None:
        """Rows, with the pixels of their pictures and their masks, all in reading order."""
        keys = [[_digest(picture) for picture in row["images"]] for row in rows]
        segmented = {of_row[0]: row["task"] for row, of_row in zip(rows, keys, strict=True) if row["masks"]}
        if pixel_values is not None:
            self._encode([key for of_row in keys for key in of_row], pixel_values, segmented)
        mask = 0
        for row, of_row in zip(rows, keys, strict=True):
            text = {"task": row["task"], "messages": row["messages"]}
            text["concept_tokens"] = [self.token_places[key] for key in of_row]
            if num_masks := len(row["masks"] or ()):
                text["patches"], text["grid_size"] = self.patch_places[of_row[0]], self.grid_size
                text["masks"] = [self.num_masks, self.num_masks + num_masks]
                self.masks.append(masks[mask : mask + num_masks].bool())
                self.num_masks += num_masks
            mask += num_masks
            self.texts.append(json.dumps(text).encode())

    def _encode(self, keys: list[bytes], pixel_values: torch.Tensor, segmented: Mapping[bytes, str]) -> None:
        """What is not there yet of the pictures of these pixels; `segmented`: those that have masks, and the task."""
        lacking = {
            key: number
            for number, key in enumerate(keys)
            if key not in self.token_places or (key in segmented and key not in self.patch_places)
        }
        if not lacking:
            return
        output = self.setok(pixel_values[list(lacking.values())].to(self.setok.device), return_dict=True)
        self.grid_size = list(output.grid_size)
        for number, key in enumerate(lacking):
            if key not in self.token_places:
                tokens = output.last_hidden_state[number, output.token_mask[number]].cpu().float()
                self.token_places[key] = [self.num_tokens, self.num_tokens + len(tokens)]
                self.tokens.append(tokens)
                self.num_tokens += len(tokens)
            if key in segmented and key not in self.patch_places:
                if output.soft_masks is not None:
                    raise ValueError(
                        'token_cache does not keep the soft masks of a SeTok with assignment_mode="soft": leave out '
                        f"rows of task {segmented[key]!r}, or token_cache."
                    )
                self.patch_places[key] = len(self.patches)
                self.patches.append(_halved(output.patch_embeddings[number].cpu()))
                self.cluster_ids.append(output.cluster_ids[number].cpu().int())

    def tensors(self) -> dict[str, torch.Tensor]:
        ends = np.cumsum([len(text) for text in self.texts])
        tensors = {
            "text": torch.frombuffer(bytearray(b"".join(self.texts)), dtype=torch.uint8),
            "text_places": torch.tensor(np.stack([np.append(0, ends[:-1]), ends], axis=1)),
        }
        if self.tokens:
            tensors["concept_tokens"] = torch.cat(self.tokens)
        if self.masks:
            tensors["patch_embeddings"] = torch.stack(self.patches)
            tensors["cluster_ids"], tensors["masks"] = torch.stack(self.cluster_ids), torch.cat(self.masks)
        return tensors


def _text(shard, row: int) -> dict[str, Any]:
    """What an open shard says of a row beside its tensors."""
    start, end = shard.get_slice("text_places")[row].tolist()
    return json.loads(shard.get_slice("text")[start:end].numpy().tobytes())


def _digest(picture: Image.Image) -> bytes:
    return hashlib.sha256(_pixels(picture)).digest()


def _pixels(picture: Image.Image) -> bytes:
    return f"{picture.mode} {picture.size}".encode() + picture.tobytes()


def _halved(patch_embeddings: torch.Tensor) -> torch.Tensor:
    halved = patch_embeddings.half()
    if not halved.isfinite().all():
        raise ValueError(
            "Patch embeddings of this vision encoder are beyond the range of float16, in which token_cache keeps those "
            "of rows with masks: leave such rows out, or token_cache."
        )
    return halved


def _shards(folder: str | Path) -> Shards:
    return Shards(Path(folder), "tokens", SHARD_ROWS, counted="text_places")
