"""Questions about pictures, from files of many kinds: how they are asked, and how they become rows."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from .. import schema
from ..entries.entry import Entry
from ..entries.records import Place, refusal

SHORT_ANSWER = "Answer the question using a single word or phrase."
OPTION_LETTER = "Answer with the option's letter from the given choices directly."
"""What LLaVA-1.5 (Liu et al. 2023, section 3.3 and table 7) adds to a question, on a line of its own."""


@dataclass(frozen=True)
class Question:
    """One question about a picture, which is a path; `kind` becomes the row's `question_type`."""

    picture: str
    request: str
    answer: str
    kind: str | None = None


def question_entries(places: Iterable[Place[Question]], per_picture: bool = False) -> Iterator[Entry]:
    """Rows of task "question": one per question, in the order of the file, or one conversation per picture.

    Args:
        per_picture: all good questions about a picture are the turns of one row, in their order, as LLaVA-1.5 has them;
            its `question_type` is theirs where they have one in common. Bad questions are told one by one.
    """
    conversations = {}  # picture -> where its first question stands, and its questions
    for where, make in places:
        if not per_picture:
            yield Entry(where, partial(_asked_alone, make))
            continue
        try:
            question = make()
        except ValueError as error:
            yield Entry(where, refusal(error))
        else:
            conversations.setdefault(question.picture, (where, []))[1].append(question)
    for where, questions in conversations.values():
        yield Entry(f"{where} and others about its picture" if len(questions) > 1 else where, partial(_row, questions))


def _asked_alone(make: Callable[[], Question]) -> dict:
    return _row([make()])


def _row(questions: list[Question]) -> dict:
    turns = [
        turn
        for question in questions
        for turn in schema.exchange([schema.text(question.request)], [schema.text(question.answer)])
    ]
    turns[0]["content"].insert(0, schema.image())
    kinds = {question.kind for question in questions}
    return schema.row(
        "question",
        images=[questions[0].picture],
        messages=turns,
        question_type=kinds.pop() if len(kinds) == 1 else None,
    )
