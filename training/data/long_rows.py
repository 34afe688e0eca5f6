"""Rows of a mixture that are longer than a model is trained on: found before a run begins, so that none ends it."""

import logging
from collections.abc import Callable

import datasets

from .mixture import MapDataset, Mixture
from .readers import CocoMasks
from .row_lengths import RowLengths
from .schema import parts_of

logger = logging.getLogger(__name__)


def without_long_rows(mixture: Mixture, lengths: RowLengths) -> Mixture:
    """The mixture without the rows of which the collator could make nothing for their length, as `long_rows` says, and
    a line in the log for each part that has some. A run that goes on finds the same rows.

    Rows whose turns are stored are looked at (files, data sets of the Hub, COCO); those of EmojiScenes, which are made
    when asked for, are not.

    Raises:
        ValueError: where long rows are to be refused, with the part and the first of them; if a part has no others.
    """
    for index, (name, part) in enumerate(zip(mixture.names, mixture.parts, strict=True)):
        messages = _stored_messages(part)
        if messages is None or index not in mixture.part_of:
            continue
        long = {row: length for row in range(len(part)) if (length := lengths.too_long(messages(row))) is not None}
        if not long:
            continue
        told = f"{name}: {len(long)} of {len(part)} rows have more than max_length = {lengths.max_length} tokens"
        if lengths.long_rows == "refuse":
            row, length = next(iter(long.items()))
            raise ValueError(
                f"{told}; the first is row {row} of those read, with {length}: {_beginning(messages(row))!r}. Raise "
                "max_length, or set long_rows to skip or cut."
            )
        rest = {row: lengths.fit({"task": "", "messages": messages(row)})[0] for row in long}
        left_out = {row for row, rows in rest.items() if len(rows) != 1}
        logger.info("%s: %d are cut, %d left out", told, len(long) - len(left_out), len(left_out))
        if texts := sum(len(rows) > 1 for rows in rest.values()):
            logger.warning("%s: %d of those left out are texts, which streaming: true would cut to pieces", name, texts)
        if left_out:
            mixture = mixture.keep(index, [row for row in range(len(part)) if row not in left_out])
    return mixture


def _stored_messages(part: MapDataset) -> Callable[[int], list[dict]] | None:
    """From the number of a row to its messages, without its pictures."""
    if isinstance(part, CocoMasks):
        return part.messages
    if isinstance(part, datasets.Dataset):
        column = part.select_columns("messages")
        return lambda row: column[row]["messages"]
    return None


def _beginning(messages: list[dict]) -> str:
    """Of what is said, enough to find the row in its file."""
    return " ".join(part["text"] or "" for part in parts_of(messages))[:80]
