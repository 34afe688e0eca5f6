"""A-OKVQA (Schwenk et al. 2022): questions that need knowledge and reasoning, with choices and free answers."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from ..entries.entry import Entry
from ..entries.files import find_picture, read_json
from ..entries.records import Place, good_records, whole_number
from ..entries.values import listed, quoted, text
from .questions import OPTION_LETTER, SHORT_ANSWER, Question, question_entries
from .vqa import most_common

Form = Literal["choice", "answer"]
LETTERS = "ABCD"


def read_aokvqa(questions: str | Path, images: str | Path, form: Form = "choice", orders: int = 1) -> Iterator[Entry]:
    """A-OKVQA as released (https://allenai.org/project/a-okvqa/home, aokvqa_v1p0.tar.gz, MIT; pictures of COCO
    2017): a row per question, or several of its choice. Rationales are left out.

    Args:
        questions: aokvqa_v1p0_train.json.
        images: the folder of COCO's train2017.zip, with 000000299207.jpg and others.
        form: "choice": four choices under the letters A to D, of which the right one is the answer; "answer": the free
            answer that most people gave, without the questions that are marked `difficult_direct_answer`, which the
            official evaluation leaves out, too.
        orders: of "choice", how often each question is asked, from 1 to 4: every time the choices move up by one, the
            first to the end, so that no letter is right more often. LLaVA-1.5 asks as often as there are choices.

    Raises:
        ValueError: for a file that is not in this format, another form, or another number of orders.
    """
    if form not in ("choice", "answer"):
        raise ValueError(f'form must be "choice" or "answer", not {form!r}')
    if orders not in range(1, len(LETTERS) + 1) or (form == "answer" and orders != 1):
        raise ValueError(f'orders must be 1 to {len(LETTERS)} of the form "choice" and 1 of "answer", not {orders!r}')
    return question_entries(_places(questions, Path(images), form, orders))


def _places(questions: str | Path, folder: Path, form: Form, orders: int) -> Iterator[Place[Question]]:
    bad = []
    fields = {"question_id": text, "image_id": whole_number, "question": text}
    for record in good_records(read_json(Path(questions), list), str(questions), bad, **fields).values():
        where = f"{questions}, question {quoted(record['question_id'])}"
        if form == "choice":
            yield from ((where, partial(_choice, record, folder, order)) for order in range(orders))
        elif record.get("difficult_direct_answer") is not True:
            yield where, partial(_free_answer, record, folder)
    yield from bad


def _choice(record: dict, folder: Path, order: int) -> Question:
    choices = [text(choice, "a choice") for choice in listed(record.get("choices"), "choices")]
    if len(choices) != len(LETTERS):
        raise ValueError(f"there must be {len(LETTERS)} choices, not {len(choices)}")
    right = whole_number(record.get("correct_choice_idx"), "correct_choice_idx")
    if right >= len(choices):
        raise ValueError(f"correct_choice_idx must be the place of a choice from 0 on, not {right}")
    choices = choices[order:] + choices[:order]
    lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True)]
    request = "\n".join([record["question"], *lines, OPTION_LETTER])
    return Question(_picture(record, folder), request, LETTERS[(right - order) % len(choices)])


def _free_answer(record: dict, folder: Path) -> Question:
    answer = most_common(listed(record.get("direct_answers"), "direct_answers"), "direct_answers")
    return Question(_picture(record, folder), f"{record['question']}\n{SHORT_ANSWER}", answer)


def _picture(record: dict, folder: Path) -> str:
    return find_picture(f"{record['image_id']:012}.jpg", folder)
