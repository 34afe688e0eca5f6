"""One row of each part as the model sees it: the text with its marks, the pictures at the size that it gets."""

import numpy as np
from PIL import Image

from processing import contact_sheet, draw_mask, side_by_side
from training.data.row_lengths import RowLengths

from .reading import Reading
from .sample import PartSample

_SHOWN_TEXT = 1500  # characters
_SHOWN_PICTURES = 6  # of a row


def draw_examples(
    samples: list[PartSample], reading: Reading, lengths: RowLengths | None
) -> tuple[str, Image.Image | None]:
    """Markdown with the texts, and a sheet with a line of pictures for each row that has some; None without any."""
    texts, lines = ["## One row of each part\n"], []
    for sample in samples:
        if sample.example is None:
            continue
        row = _fitted(sample.example, lengths)
        written = reading.processor.apply_chat_template(row["messages"], tokenize=False)
        more = f"\n… and {len(written) - _SHOWN_TEXT} characters more" if len(written) > _SHOWN_TEXT else ""
        texts.append(f"### {sample.name}\n\n````\n{written[:_SHOWN_TEXT].rstrip()}{more}\n````\n")
        if row["images"]:
            lines.append(_line(sample.name, row, reading))
    return "\n".join(texts), contact_sheet(lines) if lines else None


def _fitted(row: dict, lengths: RowLengths | None) -> dict:
    """What is left of a row, or its first piece; the row itself where nothing would be left."""
    if lengths is None or lengths.long_rows == "refuse":
        return row
    rows, _ = lengths.fit(row)
    return rows[0] if rows else row


def _line(name: str, row: dict, reading: Reading) -> Image.Image:
    processor = reading.processor.image_processor
    pictures = row["images"][:_SHOWN_PICTURES]
    shown = [
        processor.postprocess(processor([picture], return_tensors="pt")["pixel_values"])[0] for picture in pictures
    ]
    captions = [f"picture {number}" for number in range(1, len(shown) + 1)]
    asked = sum(part["type"] == "mask" for turn in row["messages"] for part in turn["content"])
    for number, mask in enumerate(row["masks"][: min(asked, _SHOWN_PICTURES)], 1):
        shown.append(draw_mask(row["images"][0], np.asarray(mask) > 0))
        captions.append(f"mask {number}")
    captions[0] = f"{captions[0]}\n{name}"
    return side_by_side(shown, captions)
