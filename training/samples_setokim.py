"""Sample rows that a Setokim answers while it is trained: texts beside those expected, and pictures."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, zip_longest

import numpy as np
import torch
from PIL import Image

from modeling_setok import SetokimForConditionalGeneration
from processing import SetokimProcessor, contact_sheet, draw_mask, side_by_side

LONGEST_ANSWER = 64  # tokens: a model that has not learned to end would go on and on
GREEDY = {"do_sample": False, "use_cache": True}  # which takes no random number from the training


@dataclass(frozen=True)
class SampleRow:
    """A row of the schema, of which the first answer is asked for, and what its data set is called."""

    name: str
    row: dict

    @cached_property
    def answer(self) -> list[dict]:
        """The parts of the assistant's first turn."""
        return next(turn["content"] for turn in self.row["messages"] if turn["role"] == "assistant")

    @cached_property
    def kind(self) -> str:
        """What the answer is: "mask", "image" or "text"."""
        kinds = {part["type"] for part in self.answer}
        return next(kind for kind in ("mask", "image", "text") if kind in kinds)

    @cached_property
    def request(self) -> str:
        return _texts(self._before)

    @cached_property
    def pictures(self) -> list[Image.Image]:
        """What the request is about."""
        return self.row["images"][: sum(part["type"] == "image" for part in self._before)]

    @cached_property
    def expected(self) -> str | Image.Image | np.ndarray:
        """The answer: a text, a picture or a mask (H, W) bool."""
        if self.kind == "mask":
            return np.asarray(self.row["masks"][0]) > 0
        return self.row["images"][len(self.pictures)] if self.kind == "image" else _texts(self.answer)

    @cached_property
    def _before(self) -> list[dict]:
        """The parts of all turns before the answer."""
        roles = [turn["role"] for turn in self.row["messages"]]
        return [part for turn in self.row["messages"][: roles.index("assistant")] for part in turn["content"]]


def choose_sample_rows(eval_sets: Mapping[str, Iterable[dict]], count: int) -> list[SampleRow]:
    """The first rows of data sets, always the same: in turn one with a text, a picture or a mask as its answer, and of
    each such kind in turn one of each data set."""
    by_set = [[SampleRow(name, row) for row in islice(rows, count)] for name, rows in eval_sets.items()]
    by_kind = defaultdict(list)
    for sample in _in_turn(by_set):
        by_kind[sample.kind].append(sample)
    return list(islice(_in_turn(by_kind.values()), count))


@torch.no_grad()
def answer_sample_rows(
    model: SetokimForConditionalGeneration, processor: SetokimProcessor, samples: Sequence[SampleRow]
) -> tuple[Image.Image | None, str | None]:
    """Has a model in evaluation mode answer sample rows, each as if it were alone, and always in the same way.

    Returns:
        a sheet with a line for each row that asks for a picture or a mask: what it is about, the answer and the one
        expected; and a Markdown table of the others. None where there are no such rows.
    """
    texts, shown = [], []
    for sample in samples:
        if sample.kind == "text":
            options = {"max_new_tokens": LONGEST_ANSWER, **GREEDY}
            answer = model.ask(processor, sample.pictures or None, sample.request, **options)
            texts.append((sample.name, sample.request, answer, sample.expected))
        else:
            shown.append(_show(model, processor, sample))
    return contact_sheet(shown) if shown else None, _table(texts) if texts else None


def _in_turn(groups: Iterable[Sequence[SampleRow]]) -> Iterator[SampleRow]:
    """One of each group, then the next of each, until all are through."""
    return (sample for samples in zip_longest(*groups) for sample in samples if sample is not None)


def _show(model: SetokimForConditionalGeneration, processor: SetokimProcessor, sample: SampleRow) -> Image.Image:
    """Of a row that asks for a picture or a mask: what it is about, the answer and the one expected, side by side."""
    tokens = model.generate_visual_tokens(processor, sample.pictures or None, sample.request, **GREEDY)
    if sample.kind == "mask":
        picture = sample.pictures[0]  # to which masks belong
        found = draw_mask(picture, model.segment_from_tokens(processor, picture, tokens))
        answer, expected = ("outlined", found), draw_mask(picture, sample.expected)
    else:
        (painted,) = processor.image_processor.postprocess(model.decode_images([tokens]))
        answer, expected = ("painted", painted), sample.expected
    columns = [*(("picture", picture) for picture in sample.pictures), answer, ("expected", expected)]
    captions, pictures = map(list, zip(*columns, strict=True))
    captions[0] = f"{captions[0]}\n{sample.name}: {sample.request}"
    return side_by_side(pictures, captions)


def _table(lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    head = [("", "request", "answer", "expected"), ("---",) * 4]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in [*head, *lines])


def _cell(text: str) -> str:
    """A text on one line in which nothing ends the cell."""
    return " ".join(text.split()).replace("|", "\\|")


def _texts(parts: Sequence[dict]) -> str:
    return " ".join(part["text"] for part in parts if part["type"] == "text")
