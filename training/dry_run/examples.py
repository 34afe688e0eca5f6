"""One row of each part as the model sees it: the text with its marks, or its names; the pictures at the size that it
gets."""

from collections.abc import Iterable

import numpy as np
from PIL import Image

from processing import SetokImageProcessor, contact_sheet, draw_mask, side_by_side
from training.data.row_lengths import RowLengths
from training.data.schema import parts_of

from .reading import Reading
from .sample import PartSample

_TITLE = "## One row of each part\n"
_SHOWN_TEXT = 1500  # characters
_SHOWN_PICTURES = 6  # of a row
_ACROSS = 5  # pictures on a line of the sheet, if a row has no more

Tile = tuple[Image.Image, str]  # a picture and its caption


def draw_examples(
    samples: list[PartSample], reading: Reading, lengths: RowLengths | None
) -> tuple[str, Image.Image | None]:
    """Markdown with the texts, and a sheet with the pictures of all rows; None without any."""
    texts, shown = [_TITLE], []
    for sample in samples:
        if sample.example is None:
            continue
        row = _fitted(sample.example, lengths)
        written = reading.processor.apply_chat_template(row["messages"], tokenize=False)
        more = f"\n… and {len(written) - _SHOWN_TEXT} characters more" if len(written) > _SHOWN_TEXT else ""
        texts.append(f"### {sample.name}\n\n````\n{written[:_SHOWN_TEXT].rstrip()}{more}\n````\n")
        if row["images"]:
            shown.append(_tiles(sample.name, row, reading.processor.image_processor))
    return "\n".join(texts), _sheet(shown)


def draw_named_examples(
    samples: Iterable[PartSample], image_processor: SetokImageProcessor
) -> tuple[str, Image.Image | None]:
    """The same of rows with one picture, and names of what is in it or none."""
    texts, shown = [], []
    for sample in samples:
        if sample.example is not None:
            names = ", ".join(dict.fromkeys(sample.example["concepts"] or ())) or "no names"
            (tile, _), *_ = _tiles(sample.name, sample.example | {"masks": []}, image_processor)
            width, height = sample.example["images"][0].size
            texts.append(
                f"- {sample.name}: a picture of {width} x {height} pixels, of which the model gets "
                f"{tile.width} x {tile.height}: {names}\n"
            )
            shown.append([(tile, f"{sample.name}\n{names}")])
    return "\n".join([_TITLE, "".join(texts)]), _sheet(shown)


def _fitted(row: dict, lengths: RowLengths | None) -> dict:
    """What is left of a row, or its first piece; the row itself where nothing would be left."""
    if lengths is None or lengths.long_rows == "refuse":
        return row
    rows, _ = lengths.fit(row)
    return rows[0] if rows else row


def _tiles(name: str, row: dict, processor: SetokImageProcessor) -> list[Tile]:
    pictures = row["images"][:_SHOWN_PICTURES]
    shown = [
        processor.postprocess(processor([picture], return_tensors="pt")["pixel_values"])[0] for picture in pictures
    ]
    captions = [f"picture {number}" for number in range(1, len(shown) + 1)]
    asked = sum(part["type"] == "mask" for part in parts_of(row["messages"]))
    for number, mask in enumerate(row["masks"][: min(asked, _SHOWN_PICTURES)], 1):
        shown.append(draw_mask(row["images"][0], np.asarray(mask) > 0))
        captions.append(f"mask {number}")
    return [(picture, f"{caption}\n{name}") for picture, caption in zip(shown, captions, strict=True)]


def _sheet(rows: list[list[Tile]]) -> Image.Image | None:
    """As many rows on a line as have room, none on two."""
    lines: list[list[Tile]] = []
    for tiles in rows:
        if not lines or len(lines[-1]) + len(tiles) > _ACROSS:
            lines.append([])
        lines[-1] += tiles
    return contact_sheet([side_by_side(*zip(*line, strict=True)) for line in lines]) if lines else None
