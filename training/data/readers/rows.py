"""From rows as other people write them to the one schema.

Rows may look like this (further keys are ignored):

- LLaVA: `{"image": "a.jpg" | ["a.jpg", ...], "conversations": [{"from": "human" | "gpt" | "system", "value": "..."}]}`,
  with `<image>` in the text where each picture belongs; no picture for text only;
- our own schema: `{"images": [...], "messages": [...], "masks": [...], "concepts": [...]}` (`schema.FEATURES`);
- `{"image": ..., "caption": "..."}`, `{"image": ..., "concepts" (or "labels"): ["...", ...]}`, `{"image": ...}`.
"""

from collections.abc import Callable

from .. import schema
from .files import check_picture

PLACEHOLDER = "<image>"
ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}


def to_row(raw: dict, locate: Callable[[object], object] = lambda picture: picture) -> dict:
    """A row of any kind in the list above -> a row of `schema.FEATURES`.

    Args:
        raw: the row. Pictures are paths, `{"bytes": ..., "path": ...}` or PIL images.
        locate: from a picture as the row has it to one of these.

    Raises:
        ValueError: what is wrong with the row.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"a row must be an object with keys, not {raw!r}")
    raw = {key: value for key, value in raw.items() if value is not None}
    if not {"image", "images", "messages", "conversations"} & set(raw):
        raise ValueError(f"none of the keys image, images, messages, conversations; its keys: {', '.join(raw)}")
    images = [locate(picture) for picture in _as_list(raw.get("images", raw.get("image", [])))]
    masks = [locate(picture) for picture in _as_list(raw.get("masks", []))]
    sizes = [check_picture(picture) for picture in images]
    names = _as_list(raw.get("concepts", raw.get("labels", [])))
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"concepts must be names, not {names!r}")

    if raw.get("messages") or "conversations" in raw:
        messages, task = _messages(raw), "conversation"
    elif isinstance(raw.get("caption"), str):
        request = [schema.image(), schema.text("Describe the picture.")]
        messages, task = schema.exchange(request, [schema.text(raw["caption"])]), "caption"
    elif "caption" in raw:
        raise ValueError(f"the caption must be text, not {raw['caption']!r}")
    else:
        messages, task = [], "concepts" if names else "reconstruction"

    row = schema.row(
        raw["task"] if isinstance(raw.get("task"), str) else task,
        images=images,
        messages=messages,
        masks=masks,
        concepts=names,
        question_type=raw["question_type"] if isinstance(raw.get("question_type"), str) else None,
    )
    _check_row(row, sizes)
    return row


def _messages(raw: dict) -> list[dict]:
    """Structured messages from our own or from LLaVA's."""
    key, role_key, content_key = (
        ("messages", "role", "content") if raw.get("messages") else ("conversations", "from", "value")
    )
    turns = raw[key]
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        raise ValueError(f"{key} must be a list of turns, not {turns!r}")
    messages = []
    for turn in turns:
        if turn.get(role_key) not in ROLES:
            raise ValueError(f"{role_key!r} of a turn must be one of {', '.join(ROLES)}, not {turn.get(role_key)!r}")
        content = turn.get(content_key)
        if isinstance(content, str):
            parts = _split_placeholders(content)
        elif isinstance(content, list) and all(map(_is_part, content)):
            parts = [{"type": part["type"], "text": part.get("text")} for part in content]
        else:
            raise ValueError(f"{content_key!r} of a turn must be text or a list of parts, not {content!r}")
        if not parts:
            raise ValueError("a turn is empty")
        messages.append({"role": ROLES[turn[role_key]], "content": parts})
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


def _check_row(row: dict, sizes: list[tuple[int, int]]) -> None:
    """What the parts of a row must have to do with one another; `sizes` are those of its images."""
    parts = [part["type"] for turn in row["messages"] for part in turn["content"]]
    if row["messages"]:
        if parts.count("image") != len(row["images"]):
            raise ValueError(f"{len(row['images'])} pictures but {parts.count('image')} places for them in the text")
    elif len(row["images"]) != 1:
        raise ValueError(f"a row without a conversation must have one picture, not {len(row['images'])}")
    if row["masks"] and (row["concepts"] or not row["messages"]) and len(row["masks"]) != len(row["concepts"]):
        raise ValueError(f"{len(row['masks'])} masks but {len(row['concepts'])} concepts")
    if parts.count("mask") and parts.count("mask") != len(row["masks"]):
        raise ValueError(f"{len(row['masks'])} masks but {parts.count('mask')} places for them in the text")
    if row["masks"] and not sizes:
        raise ValueError("masks without a picture")
    for mask in row["masks"]:
        size = check_picture(mask, is_mask=True)
        if size != sizes[0]:
            raise ValueError(f"a mask has {size[0]}x{size[1]} pixels, its picture {sizes[0][0]}x{sizes[0][1]}")


def _as_list(value: object) -> list:
    return list(value) if isinstance(value, list | tuple) else [value]
