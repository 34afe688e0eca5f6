"""What a part gives a training for each row that is drawn from it: rows, tokens of text, visual tokens."""

from collections import Counter
from dataclasses import dataclass, field

from training.data.row_lengths import RowLengths
from training.data.schema import parts_of

from .sample import PartSample


@dataclass
class Amounts:
    """Means over the rows of a sample.

    Attributes:
        rows: that a drawn row becomes: 0 of a bad one, several of a text that is cut to pieces.
        vision_rows: those with an image or a mask.
        text_tokens, visual_tokens: of all of them. None where tokens cannot be counted.
        vision_row_tokens: of both kinds, of those with an image or a mask.
        long: what becomes of rows that are too long -> their number in the sample.
    """

    rows: float = 0.0
    vision_rows: float = 0.0
    text_tokens: float | None = None
    visual_tokens: float | None = None
    vision_row_tokens: float | None = None
    long: Counter = field(default_factory=Counter)


def amounts_of(sample: PartSample, lengths: RowLengths | None, streaming: bool) -> Amounts:
    """Those of a part of a stream, or of a mixture that is looked at before the first step: it has no bad rows left,
    and texts that would be cut to pieces are left out.

    Args:
        lengths: None where there is no tokenizer to count with.
    """
    amounts, kept, fitted = Amounts(), 0, []
    for row in sample.good:
        rows = [row] if lengths is None else _fit(row, lengths, streaming, amounts.long)
        fitted += rows
        kept += bool(rows)
    drawn = sample.looked_at if streaming else kept
    if not drawn:
        return amounts
    visual = [_visual_parts(row) for row in fitted]
    amounts.rows, amounts.vision_rows = len(fitted) / drawn, sum(map(bool, visual)) / drawn
    if lengths is not None:
        totals = lengths.measure([row["messages"] for row in fitted]) if fitted else []
        of_images = [count * lengths.image_tokens for count in visual]
        amounts.visual_tokens = sum(of_images) / drawn
        amounts.text_tokens = (sum(totals) - sum(of_images)) / drawn
        amounts.vision_row_tokens = sum(total for total, count in zip(totals, visual, strict=True) if count) / drawn
    return amounts


def _fit(row: dict, lengths: RowLengths, streaming: bool, long: Counter) -> list[dict]:
    if lengths.too_long(row["messages"]) is None:
        return [row]
    if lengths.long_rows == "refuse":
        long["refused"] += 1
        return [row]
    rows, _ = lengths.fit(row)
    if len(rows) > 1 and not streaming:
        rows = []
    long[("left out", "cut", "cut to pieces")[min(len(rows), 2)]] += 1
    return rows


def _visual_parts(row: dict) -> int:
    return sum(part["type"] != "text" for part in parts_of(row["messages"]))
