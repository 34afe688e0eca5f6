"""For tests of rows of `training.data.schema`."""

from collections.abc import Iterable

import numpy as np

from processing import SetokimProcessor
from training.data import FEATURES
from training.data.setok_collator import SetokCollator
from training.data.setokim_collator import SetokimCollator


def plain(row: dict) -> dict:
    """A row with its pictures as (mode, size, bytes), so that rows can be compared."""

    def pixels(pictures):
        return [(picture.mode, picture.size, np.asarray(picture).tobytes()) for picture in pictures]

    return {**row, "images": pixels(row["images"]), "masks": pixels(row["masks"])}


def are_trainable(rows: Iterable[dict], processor: SetokimProcessor) -> bool:
    """Whether all rows, and at least one, have the schema and something to learn that their collator takes."""
    for row in (rows := list(rows)):
        if set(row) != set(FEATURES):
            return False
        if row["messages"]:
            batch = SetokimCollator(processor)([row])
            if not (batch["labels"] != -100).any():
                return False
        else:
            SetokCollator(processor.image_processor)([row])
    return len(rows) > 0
