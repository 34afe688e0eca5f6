"""From rows of the schema to the inputs of SetokForPreTraining."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from processing import SetokImageProcessor


@dataclass
class SetokCollator:
    """Collates rows with one image, or of a `PatchCache`, and their `concepts` for `SetokForPreTraining.forward`.

    Args:
        image_processor: makes `pixel_values` (B, 3, H, W) float32.
        concept_names: the concept bank; names outside it raise, `None` leaves labels out.
        max_concepts: K of Eq. 5. Images with more distinct concepts get a random choice, those with fewer are padded
            with -1.
        target_size: side in pixels of the image that the detokenizer paints; `None` leaves the target out.
    """

    image_processor: SetokImageProcessor
    concept_names: Sequence[str] | None = None
    max_concepts: int = 6
    target_size: int | None = None
    _index: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self):
        self._index = {name: i for i, name in enumerate(self.concept_names or ())}

    def __call__(self, rows: list[dict]) -> dict:
        batch = self._cached(rows) if "patch_embeddings" in rows[0] else self._pictures(rows)
        if self.concept_names is not None:
            batch["concept_ids"] = torch.tensor([self._labels(row.get("concepts") or ()) for row in rows])
        return batch

    def _cached(self, rows: list[dict]) -> dict:
        """Rows of a `PatchCache`."""
        batch = {name: torch.stack([row[name] for row in rows]) for name in ("patch_embeddings", "target_pixel_values")}
        return batch | {"grid_size": rows[0]["grid_size"]}

    def _pictures(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        images = []
        for row in rows:
            if len(row["images"]) != 1:
                raise ValueError(f"SeTok is trained on rows with one image, but a row has {len(row['images'])}.")
            images.append(row["images"][0])
        batch = {"pixel_values": self.image_processor(images, return_tensors="pt")["pixel_values"]}
        if self.target_size is not None:
            size = {"height": self.target_size, "width": self.target_size}
            if batch["pixel_values"].shape[-2:] == (self.target_size, self.target_size):
                batch["target_pixel_values"] = batch["pixel_values"]
            else:
                targets = self.image_processor(images, size=size, return_tensors="pt")
                batch["target_pixel_values"] = targets["pixel_values"]
        return batch

    def _labels(self, concepts: Sequence[str]) -> list[int]:
        names = list(dict.fromkeys(concepts))  # a concept that occurs twice in an image counts once
        unknown = [name for name in names if name not in self._index]
        if unknown:
            raise ValueError(f"Concepts {unknown} are not in the concept bank of {len(self._index)} names.")
        if len(names) > self.max_concepts:
            names = [names[i] for i in torch.randperm(len(names))[: self.max_concepts].tolist()]
        return [self._index[name] for name in names] + [-1] * (self.max_concepts - len(names))
