"""Rows longer than a model is trained on: found before a run begins, so that none ends it."""

import logging
from collections.abc import Callable

import datasets

from .mixture import MapDataset, Mixture
from .readers import CocoMasks
from .setokim_collator import SetokimCollator

logger = logging.getLogger(__name__)

_BATCH = 256  # rows that are tokenized together
_TURN, _MARK = 32, 8  # more tokens than the frame of a turn, an image or a mask has


def without_long_rows(mixture: Mixture, collator: SetokimCollator) -> Mixture:
    """The mixture without the rows that the collator would refuse for their length, as its `long_rows` says, and a line
    in the log for each part that has some. A run that goes on finds the same rows.

    Rows whose turns are stored are looked at (files, data sets of the Hub, COCO); those of EmojiScenes, which are made
    when asked for, are not.

    Raises:
        ValueError: where long rows are to be refused, with the part and the first of them; if a part has no others.
    """
    for index, (name, part) in enumerate(zip(mixture.names, mixture.parts, strict=True)):
        messages = _stored_messages(part)
        if messages is None or collator.max_length is None or index not in mixture.part_of:
            continue
        lengths, hopeless = _long_rows(messages, len(part), collator)
        if not lengths:
            continue
        told = f"{name}: {len(lengths)} of {len(part)} rows have more than max_length = {collator.max_length} tokens"
        if collator.long_rows == "refuse":
            row, length = next(iter(lengths.items()))
            raise ValueError(
                f"{told}; the first is row {row} of those read, with {length}: {_beginning(messages(row))!r}. Raise "
                "max_length, or set long_rows to skip or cut."
            )
        left_out = hopeless if collator.long_rows == "cut" else set(lengths)
        logger.info("%s: %d are cut, %d left out", told, len(lengths) - len(left_out), len(left_out))
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


def _long_rows(messages: Callable, num_rows: int, collator: SetokimCollator) -> tuple[dict[int, int], set[int]]:
    """The rows with too many tokens and their lengths; those of them that lose their whole answer when they are cut."""
    lengths, hopeless = {}, set()
    candidates = [row for row in range(num_rows) if _most_tokens(messages(row)) > collator.max_length]
    for first in range(0, len(candidates), _BATCH):
        rows = candidates[first : first + _BATCH]
        for row, (ids, is_target) in zip(rows, collator.tokens([messages(row) for row in rows]), strict=True):
            if len(ids) > collator.max_length:
                lengths[row] = len(ids)
                if not any(is_target[: collator.cut_length(ids)]):
                    hopeless.add(row)
    return lengths, hopeless


def _most_tokens(messages: list[dict]) -> int:
    """At least as many tokens as the messages have, in no time: tokenizers make at most one of a byte."""
    texts = [part["text"] for turn in messages for part in turn["content"]]
    return _TURN * (1 + len(messages)) + sum(_MARK if text is None else len(text.encode()) for text in texts)


def _beginning(messages: list[dict]) -> str:
    """Of what is said, enough to find the row in its file."""
    return " ".join(part["text"] or "" for turn in messages for part in turn["content"])[:80]
