"""For tests of rows of `training.data.schema`."""

import numpy as np


def plain(row: dict) -> dict:
    """A row with its pictures as (mode, size, bytes), so that rows can be compared."""

    def pixels(pictures):
        return [(picture.mode, picture.size, np.asarray(picture).tobytes()) for picture in pictures]

    return {**row, "images": pixels(row["images"]), "masks": pixels(row["masks"])}
