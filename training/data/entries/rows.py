"""From rows as other people write them to the one schema.

Rows may look like this (further keys are ignored):

- LLaVA: `{"image": "a.jpg" | ["a.jpg", ...], "conversations": [{"from": "human" | "gpt" | "system", "value": "..."}]}`,
  with `<image>` in the text where each picture belongs; no picture for text only;
- our own schema: `{"images": [...], "messages": [...], "masks": [...], "concepts": [...]}` (`schema.FEATURES`);
- `{"image": ..., "caption": "..."}`: the picture is described, or, of task "text_to_image", drawn as described;
- `{"image": ..., "concepts" (or "labels", "label"): "..." | ["...", ...]}`: names of what is in the picture, which is
  drawn on request, if of task "text_to_image";
- `{"image": ...}`;
- `{"image": ..., "instruction": "...", "edited_image": ...}`: the picture before an edit, and after it;
- `{"instruction": "...", "input": "..." | "" | None, "output": "..."}` (Alpaca), with an `image` or without;
- `{"text": "..."}`, without a picture: a document, which is one assistant's turn.
"""

from collections.abc import Callable
from typing import Literal

from .. import schema
from .files import check_picture
from .turns import has_turns, read_turns
from .values import listed, quoted, text
from .wording import TASKS, Task, kind_of, put_into_words

Needs = Literal["answer", "picture"]

_KEYS = ("image", "images", "messages", "conversations", "instruction", "text")  # of which a row has at least one


def to_row(
    raw: dict,
    locate: Callable[[object], object] = lambda picture: picture,
    needs: Needs | None = None,
    look: bool = True,
    task: Task | None = None,
) -> dict:
    """A row of any kind in the list above -> a row of `schema.FEATURES`.

    Text is text: but for `<image>` in a text that stands for a turn, nothing written in it is a mark.

    Args:
        raw: the row. Pictures are paths, a file's bytes, `{"bytes": ..., "path": ...}` or PIL images.
        locate: from a picture as the row has it to one of these.
        needs: what the row is for: an "answer" to learn (Setokim is trained on nothing else), one "picture" (SeTok).
        look: read every picture to its end. Without it nothing is opened, pictures are no PIL images, and a row may
            have `segments`, each in place of one of its masks.
        task: what a row without turns becomes, such as "text_to_image" or "reconstruction" (which leaves out the
            names), and what one with turns is called. By default the row's own key `task`, else what its keys suggest.

    Raises:
        ValueError: what is wrong with the row; for another task.
    """
    if task is not None and task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, not {quoted(task)}")
    if not isinstance(raw, dict):
        raise ValueError(f"a row must be an object with keys, not {quoted(raw)}")
    given = {key: value for key, value in raw.items() if value is not None}
    if not set(_KEYS) & set(given):
        raise ValueError(f"none of the keys {', '.join(_KEYS)}; its keys: {quoted(list(raw))}")
    kinds = {key: text(given[key], key) for key in ("task", "question_type") if isinstance(given.get(key), str)}
    wanted = task or kinds.get("task")

    pictures = _as_list(given.get("images", given.get("image", [])))
    masks = [locate(mask) for mask in _as_list(given.get("masks", []))]
    names = _names(given) if pictures and task != "reconstruction" else []
    if has_turns(given):
        kind, messages = "conversation", read_turns(given)
    else:
        kind = wanted if wanted in TASKS else kind_of(raw, names, len(pictures))
        if kind == "edit":
            pictures, names = [*pictures, *_as_list(given.get("edited_image", []))], []
        messages = put_into_words(kind, raw, names, len(pictures))

    row = schema.row(
        wanted or kind,
        images=[locate(_as_file(picture)) for picture in pictures],
        messages=messages,
        masks=masks,
        concepts=names,
        question_type=kinds.get("question_type"),
    )
    _check_masks(row, len(masks or listed(given.get("segments", []), "segments")))
    _check_turns(row)
    if look:
        look_at(row)
    else:
        for picture in [*row["images"], *masks]:
            _check_form(picture)
    if needs == "answer" and not messages:
        raise ValueError("no conversation or caption to learn from")
    if needs == "picture" and len(pictures) != 1:
        raise ValueError(f"{len(pictures)} pictures; SeTok is trained on rows with one")
    return row


def _names(given: dict) -> list[str]:
    """Of what is in the picture. A label that is a number, as in tables without names of classes, says nothing."""
    label = [] if isinstance(given.get("label"), int | float) else given.get("label", [])
    return [text(name, "a name in concepts") for name in _as_list(given.get("concepts", given.get("labels", label)))]


def _as_file(picture: object) -> object:
    """A picture's bytes with their key, other pictures as they are."""
    return {"bytes": picture, "path": None} if isinstance(picture, bytes) else picture


def _check_form(picture: object) -> None:
    """Whether a picture is a path or a file's bytes, which is what a table can hold."""
    file = {"bytes": None, "path": picture} if isinstance(picture, str) else picture
    if not isinstance(file, dict) or not {"bytes", "path"} & set(file) or set(file) - {"bytes", "path"}:
        raise ValueError(f'a picture must be a path or {{"bytes": ..., "path": ...}}, not {quoted(picture)}')
    if file.get("bytes") is None or file.get("path") is not None:
        text(file.get("path"), "the path of a picture")
    if not isinstance(file.get("bytes"), bytes | None):
        raise ValueError(f"the bytes of a picture must be bytes, not {quoted(file['bytes'])}")


def _check_turns(row: dict) -> None:
    """Whether the conversation has something to learn, and a place for each picture."""
    if not row["messages"]:
        if len(row["images"]) != 1:
            raise ValueError(f"a row without a conversation must have one picture, not {len(row['images'])}")
        return
    places = _kinds(row["messages"]).count("image")
    if places != len(row["images"]):
        raise ValueError(f"{len(row['images'])} pictures but {places} places for them in the text")
    if not any(turn["role"] == "assistant" for turn in row["messages"]):
        raise ValueError("no assistant's turn to learn from")


def _check_masks(row: dict, num_masks: int) -> None:
    """Whether each mask has its picture, and its place or its name."""
    kinds = _kinds(row["messages"])
    places = kinds.count("mask")
    if places and places != num_masks:
        raise ValueError(f"{num_masks} masks but {places} places for them in the text")
    if (row["concepts"] or not places) and num_masks and num_masks != len(row["concepts"]):
        raise ValueError(f"{num_masks} masks but {len(row['concepts'])} concepts")
    if "mask" in _kinds([turn for turn in row["messages"] if turn["role"] != "assistant"]):
        raise ValueError("a mask stands in a turn that is not the assistant's, who alone draws masks")
    if any(kinds[:place].count("image") != 1 for place, kind in enumerate(kinds) if kind == "mask"):
        raise ValueError("a mask must follow the row's first picture, to which masks belong, and no second one")
    if num_masks and not row["images"]:
        raise ValueError("masks without a picture")


def look_at(row: dict) -> None:
    """Reads the pictures of a row to their end; a ValueError for one that is not whole, and for a mask that is not 0 or
    255 everywhere or not as large as the first picture."""
    sizes = [check_picture(picture) for picture in row["images"]]
    for mask in row["masks"]:
        size = check_picture(mask, is_mask=True)
        if size != sizes[0]:
            raise ValueError(f"a mask has {size[0]}x{size[1]} pixels, its picture {sizes[0][0]}x{sizes[0][1]}")


def _kinds(messages: list[dict]) -> list[str]:
    """The types of all parts, in order."""
    return [part["type"] for part in schema.parts_of(messages)]


def _as_list(value: object) -> list:
    return list(value) if isinstance(value, list | tuple) else [value]
