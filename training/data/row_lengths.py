"""How long rows are for a language model, and what becomes of those that are too long for it."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from PIL import Image

from processing import SetokimProcessor

from . import schema
from .schema import parts_of

LongRows = Literal["refuse", "skip", "cut"]
OF_MASKS = ("masks", "patch_embeddings", "cluster_ids", "grid_size")  # what a cached row has if it has masks
_LONGEST_WORD = 200  # characters in which an end of a word is looked for
_TURN = 32  # more tokens than the frame of a turn has
_FILLED = 0.9  # of its room by a piece of a text: pieces are equal in characters, not in tokens


@dataclass(frozen=True)
class RowLengths:
    """The longest that a row may be, counted as the language model sees it: an image or a mask counts as `image_tokens`
    and the two marks around them.

    A plain text (one assistant's turn of text alone, as corpora have it) is never too long to learn from: "cut" makes
    pieces of it that together are the whole. Of a conversation "cut" leaves out the last turns, from a user's on.

    Args:
        processor: whose tokenizer counts.
        max_length: the most tokens; None: any number.
        image_tokens: the most visual tokens of an image, SeTok's `max_tokens`.
        long_rows: "refuse", "skip" or "cut".

    Raises:
        ValueError: for another word.
    """

    processor: SetokimProcessor
    max_length: int | None = None
    image_tokens: int = 1
    long_rows: LongRows = "refuse"

    def __post_init__(self):
        if self.long_rows not in get_args(LongRows):
            raise ValueError(f"long_rows must be one of {', '.join(get_args(LongRows))}, not {self.long_rows!r}")

    def measure(self, conversations: list[list[dict]]) -> list[int]:
        """The tokens of each conversation."""
        ids = [ids for ids, _ in conversation_tokens(self.processor, conversations)]
        marks = [sum(map(_is_visual, parts_of(messages))) for messages in conversations]
        return [len(row) + count * (self.image_tokens - 1) for row, count in zip(ids, marks, strict=True)]

    def may_be_long(self, messages: list[dict]) -> bool:
        """False only for those that fit, told in no time: tokenizers make at most one token of a byte."""
        if self.max_length is None:
            return False
        visual = self.image_tokens + 2  # with the marks of its beginning and end
        most = sum(visual if _is_visual(part) else len(part["text"].encode()) for part in parts_of(messages))
        return _TURN * (1 + len(messages)) + most > self.max_length

    def too_long(self, messages: list[dict]) -> int | None:
        """The length of a conversation that does not fit; None for one that does."""
        if not self.may_be_long(messages):
            return None
        length = self.measure([messages])[0]
        return length if length > self.max_length else None

    def fit(self, row: dict) -> tuple[list[dict], str | None]:
        """Rows that fit: the row itself, what is left of it, its pieces, or none; and what was done, if anything.

        Raises:
            ValueError: the row is too long, and such rows are to be refused.
        """
        length = self.too_long(row["messages"])
        if length is None:
            return [row], None
        if self.long_rows == "refuse":
            raise ValueError(
                f"A row of task {row['task']!r} has {length} tokens and max_length is {self.max_length} (images and "
                f"masks counted as {self.image_tokens}). Raise max_length, or set long_rows to skip or cut."
            )
        if self.long_rows == "cut" and _is_plain_text(row["messages"]):
            pieces = self._pieces("".join(part["text"] for part in parts_of(row["messages"])), length)
            return [{**row, "messages": _spoken(piece)} for piece in pieces], f"cut to {len(pieces)} pieces"
        turns = self._turns_that_fit(row["messages"]) if self.long_rows == "cut" else 0
        if turns:
            return [_first_turns(row, turns)], f"cut to {turns} of {len(row['messages'])} turns"
        return [], f"left out for its length of {length} tokens"

    def _turns_that_fit(self, messages: list[dict]) -> int:
        """The most first turns, ending with an assistant's, that are short enough; 0 where none are."""
        ends = [end for end in range(1, len(messages)) if messages[end - 1]["role"] == "assistant"]
        return next((end for end in reversed(ends) if self.too_long(messages[:end]) is None), 0)

    def _pieces(self, text: str, length: int) -> list[str]:
        """Parts of a text, about equal, that fit and together are the text; between words, if there are any."""
        frame = self.measure([_spoken("a")])[0] - 1  # tokens that each piece has beside its text
        room = self.max_length - frame
        if room < 1:
            raise ValueError(f"max_length {self.max_length} has no room for a text: a turn without one has {frame}.")
        number = min(max(math.ceil((length - frame) / (_FILLED * room)), 2), len(text))
        ends = [_end_of_word(text, len(text) * i // number) for i in range(1, number)]
        bounds = sorted({0, *ends, len(text)})
        pieces = []
        for start, end in zip(bounds[:-1], bounds[1:], strict=True):
            piece = text[start:end]
            longer = self.too_long(_spoken(piece)) if piece.strip() else None
            pieces += [piece] if longer is None or len(piece) == 1 else self._pieces(piece, longer)
        return [piece for piece in pieces if piece.strip()]


def conversation_tokens(
    processor: SetokimProcessor, conversations: list[list[dict]]
) -> list[tuple[list[int], list[int]]]:
    """Of each conversation its ids and which of them are to be learned (0 or 1), without its pictures: one pixel stands
    for each, and one id for each image or mask."""
    pixel = Image.new("RGB", (1, 1))
    parts = [[part["type"] for part in parts_of(messages)] for messages in conversations]
    batch = processor.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        processor_kwargs={
            "images": [[pixel] * kinds.count("image") for kinds in parts],
            "images_kwargs": {"do_resize": False, "do_center_crop": False},
            "text_kwargs": {"padding": False, "return_tensors": None},
        },
    )
    return list(zip(batch["input_ids"], batch["assistant_masks"], strict=True))


def _first_turns(row: dict, turns: int) -> dict:
    """The row with its first turns alone, and what belongs to them of its images, masks and concept tokens."""
    kinds = [part["type"] for part in parts_of(row["messages"][:turns])]
    kept = {"images": kinds.count("image"), "concept_tokens": kinds.count("image")}
    if any(part["type"] == "mask" for part in parts_of(row["messages"])):  # others have masks that no turn asks for
        kept["masks"] = kinds.count("mask")
    cut = {**row, "messages": row["messages"][:turns]}
    cut |= {name: row[name][:number] for name, number in kept.items() if name in row}
    if "patch_embeddings" in row and not kept["masks"]:  # a cached row has these for its masks alone
        cut = {name: value for name, value in cut.items() if name not in OF_MASKS}
    return cut


def _is_plain_text(messages: list[dict]) -> bool:
    return len(messages) == 1 and messages[0]["role"] == "assistant" and not any(map(_is_visual, parts_of(messages)))


def _spoken(text: str) -> list[dict]:
    """A plain text as a conversation."""
    return [{"role": "assistant", "content": [schema.text(text)]}]


def _end_of_word(text: str, place: int) -> int:
    """The end of the white space before a place in a text; the place itself where there is none near."""
    space = max(text.rfind(character, max(place - _LONGEST_WORD, 0), place) for character in " \n")
    return place if space < 0 else space + 1


def _is_visual(part: dict) -> bool:
    return part["type"] != "text"
