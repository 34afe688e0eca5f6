"""The one schema that every dataset has before a collator sees it."""

from datasets import Features, Image, List, Value

FEATURES = Features(
    {
        "images": List(Image()),
        "messages": List(
            {"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})}
        ),
        "masks": List(Image(mode="L")),
        "concepts": List(Value("string")),
        "task": Value("string"),
        "question_type": Value("string"),
    }
)
"""Columns:

- images: the row's pictures in the order in which the messages mention them, over all turns. A picture in an assistant
  turn is a target (text to image, editing), all others are context. A row without messages (reconstruction,
  concepts) has one picture.
- messages: turns `{"role": "user" | "assistant" | "system", "content": [part, ...]}`. A part is
  `{"type": "text", "text": str}`, `{"type": "image", "text": None}` (the next of `images`) or
  `{"type": "mask", "text": None}` (assistant only: the visual tokens of what the next of `masks` covers; it takes no
  entry of `images`).
- masks: pictures of mode "L", 0 or 255, as large as `images[0]`, to which they belong. Task "concepts": one per object,
  in the order of `concepts`. Tasks "referring" and "outlines": one per "mask" part.
- concepts: names of the objects in `images[0]`, a name once per object, if the row has exactly one picture; else empty.
  Where there are masks, one name per mask.
- task: "reconstruction", "concepts", "caption", "question", "text_to_image", "edit", "referring", "two_images",
  "two_captions", "comparisons", "text_only", "presence", "outlines", "placement", "relation", "relations", "places",
  "out_of_scope", or "conversation" (turns of a kind that is not known).
- question_type: finer kind within a task, for evaluation by kind; None where there is none.
"""

LAZY_FEATURES = Features(
    {
        **FEATURES,
        "images": List(Image(decode=False)),
        "masks": List(Image(mode="L", decode=False)),
        "segments": Value("string"),
        "origin": Value("string"),
        "problem": Value("string"),
    }
)
"""Columns of a stream, before its pictures are opened (see `streams.py`): those above, pictures as path or bytes, and

- segments: in place of masks, JSON of `{"size": [width, height] of the picture or null, "masks": [one list of COCO
  segmentations for each]}`; None where there are none.
- origin: the file and the place in it that the row comes from.
- problem: what is wrong with the row, which then has nothing else; None for a good one.
"""


def text(value: str) -> dict:
    """A text part of a message."""
    return {"type": "text", "text": value}


def image() -> dict:
    """The part that stands for the next of the row's `images`."""
    return {"type": "image", "text": None}


def mask() -> dict:
    """The part that stands for the visual tokens under the next of the row's `masks`."""
    return {"type": "mask", "text": None}


def parts_of(messages: list[dict]) -> list[dict]:
    """The parts of all turns, in reading order."""
    return [part for turn in messages for part in turn["content"]]


def exchange(question: list[dict], answer: list[dict]) -> list[dict]:
    """Messages of one user turn and one assistant turn."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def row(
    task: str,
    *,
    images: list = (),
    messages: list[dict] = (),
    masks: list = (),
    concepts: list[str] = (),
    question_type: str | None = None,
) -> dict:
    """A row of the schema; what is left out is empty."""
    return {
        "images": list(images),
        "messages": list(messages),
        "masks": list(masks),
        "concepts": list(concepts),
        "task": task,
        "question_type": question_type,
    }
