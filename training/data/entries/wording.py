"""Rows that are no conversations yet: what their keys ask for, put into a request and its answer."""

from typing import Literal, get_args

from .. import schema
from .values import text

Task = Literal["caption", "text_to_image", "edit", "conversation", "text_only", "concepts", "reconstruction"]
TASKS = get_args(Task)


def kind_of(raw: dict, names: list[str], num_images: int) -> Task:
    """The task of a row by its keys."""
    if "instruction" in raw:
        return "edit" if "edited_image" in raw else "conversation"
    if "caption" in raw and not (raw["caption"] is None and names):  # a caption that is null is missing
        return "caption"
    if "text" in raw and not num_images:
        return "text_only"
    return "concepts" if names else "reconstruction"


def put_into_words(task: Task, raw: dict, names: list[str], num_images: int) -> list[dict]:
    """The messages of a row.

    Args:
        task: what is asked for.
        raw: the row.
        names: of what is in its picture.
        num_images: how many pictures it has, an edited one included.

    Raises:
        ValueError: the row lacks what such a task needs.
    """

    def value(key: str) -> str:
        return text(raw.get(key), f"the {key}")

    match task:
        case "caption":
            request, answer = [schema.image(), schema.text("Describe the picture.")], schema.text(value("caption"))
        case "text_to_image":
            wanted = ", ".join(dict.fromkeys(names)) if raw.get("caption") is None and names else value("caption")
            request, answer = [schema.text(request_to_draw(wanted))], schema.image()
        case "edit":
            request, answer = [schema.image(), schema.text(value("instruction"))], schema.image()
        case "conversation":
            about = [] if raw.get("input") in (None, "") else [value("input")]  # as in Alpaca
            asked = schema.text("\n".join([value("instruction"), *about]))
            request, answer = [*[schema.image()] * num_images, asked], schema.text(value("output"))
        case "text_only":  # a document, all of it to be learned
            return [{"role": "assistant", "content": [schema.text(value("text"))]}]
        case "concepts" if not names:
            raise ValueError("there are no names of what is in the picture (numbers of classes are none)")
        case _:
            return []
    return schema.exchange(request, [answer])


def request_to_draw(wanted: str) -> str:
    """ "A red car." -> "Draw: A red car.", as the benchmarks of generation ask. Names of classes come without an
    article, as some are plurals and some no things to count."""
    return f"Draw: {text(wanted.strip().rstrip('.'), 'what to draw')}."
