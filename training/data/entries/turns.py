"""Turns of a conversation as rows of LLaVA and of our own schema write them."""

from .. import schema
from .values import quoted, text

PLACEHOLDER = "<image>"
ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}


def has_turns(raw: dict) -> bool:
    """Whether a row, without the keys that are null, is a conversation."""
    return raw.get("messages", []) != [] or "conversations" in raw


def read_turns(raw: dict) -> list[dict]:
    """Structured messages from our own or from LLaVA's.

    Raises:
        ValueError: what is wrong with a turn.
    """
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
