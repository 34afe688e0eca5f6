"""From rows as other people write them to the one schema.

Rows may look like this (further keys are ignored):

- LLaVA: `{"image": "a.jpg" | ["a.jpg", ...], "conversations": [{"from": "human" | "gpt" | "system", "value": "..."}]}`,
  with `<image>` in the text where each picture belongs; no picture for text only;
- our own schema: `{"images": [...], "messages": [...], "masks": [...], "concepts": [...]}` (`schema.FEATURES`);
- `{"image": ..., "caption": "..."}`, `{"image": ..., "concepts" (or "labels"): ["...", ...]}`, `{"image": ...}`.
"""

from collections.abc import Callable, Iterable
from typing import Literal

from .. import schema
from .files import check_picture
from .values import quoted, text

Needs = Literal["answer", "picture"]

PLACEHOLDER = "<image>"
ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}


def to_row(
    raw: dict,
    locate: Callable[[object], object] = lambda picture: picture,
    needs: Needs | None = None,
    look: bool = True,
) -> dict:
    """A row of any kind in the list above -> a row of `schema.FEATURES`.

    Text is text: but for `<image>` in a text that stands for a turn, nothing written in it is a mark.

    Args:
        raw: the row. Pictures are paths, `{"bytes": ..., "path": ...}` or PIL images.
        locate: from a picture as the row has it to one of these.
        needs: what the row is for: an "answer" to learn (Setokim is trained on nothing else), one "picture" (SeTok).
        look: read every picture to its end. Without it nothing is opened, and a row may have `segments`, each in place
            of one of its masks.

    Raises:
        ValueError: what is wrong with the row.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"a row must be an object with keys, not {quoted(raw)}")
    given = {key: value for key, value in raw.items() if value is not None}
    if not {"image", "images", "messages", "conversations"} & set(given):
        raise ValueError(f"none of the keys image, images, messages, conversations; its keys: {quoted(list(raw))}")
    images = [locate(picture) for picture in _as_list(given.get("images", given.get("image", [])))]
    masks = [locate(picture) for picture in _as_list(given.get("masks", []))]
    names = [text(name, "a name in concepts") for name in _as_list(given.get("concepts", given.get("labels", [])))]

    if given.get("messages", []) != [] or "conversations" in given:
        messages, task = _messages(given), "conversation"
    elif "caption" in given or ("caption" in raw and not names):  # a caption that is null is missing
        request = [schema.image(), schema.text("Describe the picture.")]
        messages, task = schema.exchange(request, [schema.text(text(raw["caption"], "the caption"))]), "caption"
    else:
        messages, task = [], "concepts" if names else "reconstruction"

    kinds = {key: text(given[key], key) for key in ("task", "question_type") if isinstance(given.get(key), str)}
    row = schema.row(
        kinds.get("task", task),
        images=images,
        messages=messages,
        masks=masks,
        concepts=names,
        question_type=kinds.get("question_type"),
    )
    _check_masks(row, len(masks or given.get("segments", ())))
    _check_turns(row)
    if look:
        _look(row)
    if needs == "answer" and not messages:
        raise ValueError("no conversation or caption to learn from")
    if needs == "picture" and len(images) != 1:
        raise ValueError(f"{len(images)} pictures; SeTok is trained on rows with one")
    return row


def _messages(raw: dict) -> list[dict]:
    """Structured messages from our own or from LLaVA's."""
    key, role_key, content_key = (
        ("messages", "role", "content") if raw.get("messages", []) != [] else ("conversations", "from", "value")
    )
    turns = raw[key]
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"{key} must be a list of turns, not {quoted(turns)}")
    messages = []
    for turn in turns:
        role, content = turn.get(role_key), turn.get(content_key)
        if not isinstance(role, str) or role not in ROLES:
            raise ValueError(f"{role_key!r} of a turn must be one of {', '.join(ROLES)}, not {quoted(role)}")
        if isinstance(content, str):
            parts = _split_placeholders(content)
        elif isinstance(content, list) and all(map(_is_part, content)):
            parts = [{"type": part["type"], "text": part.get("text")} for part in content]
        else:
            raise ValueError(f"{content_key!r} of a turn must be text or a list of parts, not {quoted(content)}")
        written = "".join(part["text"] or "" for part in parts)
        if written.strip():
            text(written, f"{content_key!r} of a turn")
        elif all(part["type"] == "text" for part in parts):
            raise ValueError("a turn is empty")
        messages.append({"role": ROLES[role], "content": parts})
    return messages


def _split_placeholders(value: str) -> list[dict]:
    """ "<image>\\nWhat is it?" -> an image part and a text part."""
    parts = []
    for i, piece in enumerate(value.split(PLACEHOLDER)):
        parts += [schema.image()] if i else []
        parts += [schema.text(piece.strip())] if piece.strip() else []
    return parts


def _is_part(part: object) -> bool:
    if not isinstance(part, dict) or part.get("type") not in ("text", "image", "mask"):
        return False
    return isinstance(part.get("text"), str) if part["type"] == "text" else part.get("text") is None


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
    if any(
        part["type"] == "mask" for turn in row["messages"] if turn["role"] != "assistant" for part in turn["content"]
    ):
        raise ValueError("a mask stands in a turn that is not the assistant's, who alone draws masks")
    if any(kinds[:place].count("image") != 1 for place, kind in enumerate(kinds) if kind == "mask"):
        raise ValueError("a mask must follow the row's first picture, to which masks belong, and no second one")
    if num_masks and not row["images"]:
        raise ValueError("masks without a picture")


def _look(row: dict) -> None:
    """Whether the pictures are whole, and the masks as large as the first."""
    sizes = [check_picture(picture) for picture in row["images"]]
    for mask in row["masks"]:
        size = check_picture(mask, is_mask=True)
        if size != sizes[0]:
            raise ValueError(f"a mask has {size[0]}x{size[1]} pixels, its picture {sizes[0][0]}x{sizes[0][1]}")


def _kinds(messages: Iterable[dict]) -> list[str]:
    """The types of all parts, in order."""
    return [part["type"] for turn in messages for part in turn["content"]]


def _as_list(value: object) -> list:
    return list(value) if isinstance(value, list | tuple) else [value]
