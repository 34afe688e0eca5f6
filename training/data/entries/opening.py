"""The pictures of a lazy row: opened when its turn comes, in the worker that collates it."""

import json

from PIL import Image

from .. import schema
from .rows import look_at
from .segmentations import mask_picture

_IMAGE = schema.FEATURES["images"].feature
_MASK = schema.FEATURES["masks"].feature


def open_row(lazy: dict) -> dict:
    """A row of `schema.LAZY_FEATURES` -> a row of `schema.FEATURES` with PIL pictures, its segments drawn.

    Raises:
        ValueError: the row's problem, or that of a picture or mask, with the file and the place it comes from.
    """
    try:
        if lazy["problem"] is not None:
            raise ValueError(lazy["problem"])
        images = [_decode(_IMAGE, picture) for picture in lazy["images"]]
        masks = [_decode(_MASK, mask) for mask in lazy["masks"]]
        if lazy["segments"] is not None:
            told = json.loads(lazy["segments"])
            masks = [mask_picture(segmentations, images[0].size, told["size"]) for segmentations in told["masks"]]
        look_at({"images": images, "masks": masks})
    except ValueError as error:
        raise ValueError(f"{lazy['origin']}: {error}") from error
    return {name: lazy[name] for name in schema.FEATURES} | {"images": images, "masks": masks}


def _decode(feature, picture: dict) -> Image.Image:
    try:
        return feature.decode_example(picture)
    except Exception as error:  # decoders raise anything on broken bytes
        raise ValueError(f"picture {picture.get('path') or ''} cannot be read: {error}") from error
