"""A model on rows of one's own, in any layout that training reads: captions, questions, conversations, masks, pictures.

Every assistant's turn of a row is asked for, after the true turns before it, word for word. What is measured of it
depends on the row's task: "caption"; "conversation"; any other with a text counts as a question. A mask or a picture is
asked for where it is the answer to the first request, which has one picture before its text, or none.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modeling_setok import SetokForPreTraining
from processing import SetokImageProcessor
from training.data import CocoMasks
from training.data.held_out import StoredRows, picture_keys
from training.evaluation.benchmark.answering import Answerer, Options
from training.evaluation.benchmark.benchmark import Benchmark, Example, Networks
from training.evaluation.benchmark.generation import editing
from training.evaluation.benchmark.generation.pictures import batches
from training.evaluation.benchmark.measuring import CUT, TOKENS, measure
from training.evaluation.benchmark.segmentation import refcoco
from training.evaluation.metrics import AnswerAccuracy, AskedFound, CaptionScores, RougeL, VqaAccuracy
from training.evaluation.report import Row
from training.evaluation.setokim_tasks.judge import Judge

MAX_NEW_TOKENS = 128  # as a Setokim has when it is asked
ANSWERS = {  # what is measured, in the order of the table, and the kind of its answers
    "caption": "text",
    "question": "text",
    "conversation": "text",
    "text_to_image": "image",
    "edit": "image",
    "referring": "mask",
}
LEFT_OUT = "num_left_out"


def measure_rows(
    answerer: Answerer,
    rows: StoredRows,
    output: Path,
    *,
    run: Mapping[str, Any],
    setok: tuple[SetokForPreTraining, SetokImageProcessor] | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    networks: Networks | None = None,
    options: Options | None = None,
) -> dict[str, float]:
    """What is found of a model on rows of `schema.FEATURES`; `table_rows` says how it is shown.

    Beside `output`, such as results.json, stand the answers, such as results.caption.predictions.jsonl, from which a
    killed run goes on.

    Args:
        run: what the answers depend on, see `measure`.
        setok: looks for the concepts of rows in what is painted; its concept bank must have their names.
        limit: only the first so many rows.

    Returns:
        `num_rows`, `num_left_out` (turns that are not measured, see above), and for each kind of `ANSWERS` that the
        rows have `KIND_num_examples` and

        - caption: `cider_d`, `bleu_1` … `bleu_4`, `rouge_l`; all captions of a picture count, which is asked for once;
        - question: `accuracy`, the answer word for word, of all and by `question_type` (or task), `majority`,
          `vqa_accuracy` by the annotators' answers where a question is there several times;
        - conversation: `accuracy`, word for word, and `rouge_l`, since nobody knows what is asked;
        - text_to_image, edit: `l1`, `l2`, `lpips_vgg` and the others of MagicBrush to the row's picture, of an edit
          also those of the unchanged picture; text_to_image: `found` of the row's concepts, with a `setok`;
        - referring: `ciou`, `giou`, precision.

    Raises:
        ValueError: no turn that can be measured; concepts that the `setok` lacks; what `measure` refuses.
    """
    if limit is not None:
        rows = rows.select(range(min(limit, len(rows))))
    groups, left_out, concepts = _examples(rows)
    if not groups:
        raise ValueError(f"None of the {len(rows)} rows has an answer that is measured: {left_out} turns are left out.")
    judge = None
    if setok is not None and concepts:
        judge = Judge(*setok, names=sorted({name for names in concepts.values() for name in names}))
    options = options or Options(max_new_tokens=MAX_NEW_TOKENS)
    results = {"num_rows": len(rows), LEFT_OUT: left_out}
    tokens = 0.0
    for kind, answer in ANSWERS.items():
        if examples := groups.get(kind):
            score = partial(_score_painted, judge, concepts) if kind == "text_to_image" else SCORES[kind]
            benchmark = Benchmark(
                name=kind,
                answer=answer,
                splits=(),
                files="",
                definition="",
                read=lambda data, split, examples=examples: examples,
                score=score,
                rows=(),
            )
            found = measure(
                benchmark,
                answerer,
                examples,
                output.with_suffix(f".{kind}.json"),
                run=run,
                batch_size=batch_size,
                networks=networks,
                options=options,
            )
            pictures = sum(len(example.images) for example in examples)
            tokens += found.pop(TOKENS.key, 0.0) * pictures
            results |= {f"{kind}_{key}": value for key, value in found.items()}
    pictures = sum(len(example.images) for examples in groups.values() for example in examples)
    return results | ({TOKENS.key: tokens / pictures} if tokens else {})


def table_rows(results: Mapping[str, float]) -> list[Row]:
    """The rows of the table of what `measure_rows` returned."""
    kinds = [key.removeprefix("question_").removesuffix("_accuracy") for key in results if _is_of_kind(key)]
    return [
        Row("rows", "num_rows", ".0f", {"turns left out": LEFT_OUT}),
        TOKENS,
        _count("captions", "caption"),
        Row("caption: CIDEr-D", "caption_cider_d"),
        Row("caption: BLEU-4", "caption_bleu_4"),
        Row("caption: ROUGE-L", "caption_rouge_l"),
        _count("questions", "question"),
        _accuracy("questions: word for word", "question"),
        *(_accuracy(f"– {kind.replace('_', ' ')}", f"question_{kind}") for kind in kinds),
        Row("questions: VQA accuracy", "question_vqa_accuracy"),
        _count("turns of conversations", "conversation"),
        Row("conversation: word for word", "conversation_accuracy"),
        Row("conversation: ROUGE-L", "conversation_rouge_l"),
        _count("pictures to paint", "text_to_image"),
        Row("text to image: concepts found", "text_to_image_found", beside={
            "chance": "text_to_image_found_chance", "true pictures": "text_to_image_true_found"
        }),
        *(_painted("text to image", "text_to_image", row) for row in editing.ROWS[1:]),
        _count("edits", "edit"),
        *(_painted("edit", "edit", row) for row in editing.ROWS[1:]),
        _count("expressions", "referring"),
        *(replace(row, title=f"referring: {row.title}", key=f"referring_{row.key}") for row in refcoco.ROWS[1:]),
    ]  # fmt: skip


def _is_of_kind(key: str) -> bool:
    return key.startswith("question_") and key.endswith("_accuracy") and key not in (
        "question_accuracy", "question_vqa_accuracy"
    )  # fmt: skip


def _count(title: str, kind: str) -> Row:
    return Row(title, f"{kind}_num_examples", ".0f", {CUT.title: f"{kind}_{CUT.key}"})


def _accuracy(title: str, key: str) -> Row:
    return Row(title, f"{key}_accuracy", beside={"likeliest answer": f"{key}_majority"})


def _painted(title: str, kind: str, row: Row) -> Row:
    beside = {name: f"{kind}_{key}" for name, key in row.beside.items()}
    return replace(row, title=f"{title}: {row.title}", key=f"{kind}_{row.key}", beside=beside)


def _examples(rows: StoredRows) -> tuple[dict[str, list[Example]], int, dict[str, list[str]]]:
    """By kind the examples; the number of turns left out; by key of what is to be painted the concepts of the row."""
    groups, left_out, concepts = defaultdict(list), 0, {}
    truths = defaultdict(list)  # of texts: kind, pictures and turns -> all answers
    for index, (row, keys) in enumerate(zip(_without_pictures(rows), picture_keys(rows), strict=True)):
        for place, turn in enumerate(row["messages"]):
            if turn["role"] != "assistant":
                continue
            turns = [_as_asked(before) for before in row["messages"][:place]]
            kind = _kind(row["task"], turns, turn)
            if kind is None:
                left_out += 1
                continue
            number = sum(part["type"] == "image" for before in turns for part in before["content"])
            example = Example(
                key=f"{index}-{place}",
                request=_told(turns) if ANSWERS[kind] == "text" else turns[-1]["content"][-1]["text"],
                images=tuple(partial(_picture, rows, index, image) for image in range(number)),
                group=row["question_type"] or row["task"],
                turns=tuple(turns),
            )
            if ANSWERS[kind] == "text":
                answers = truths[kind, keys[:number], _told(turns)]
                answers.append("".join(part["text"] for part in turn["content"]))
                if len(answers) > 1:  # is asked for already
                    continue
                example = replace(example, truth=answers)
            elif kind == "referring":
                example = replace(example, truth=partial(_mask, rows, index))
            else:
                example = replace(example, truth=(partial(_picture, rows, index, number), None))
                if kind == "text_to_image" and row["concepts"]:
                    concepts[example.key] = row["concepts"]
            groups[kind].append(example)
    return groups, left_out, concepts


def _kind(task: str, turns: Sequence[dict], answer: dict) -> str | None:
    """What an answer is measured as; `None`: not at all."""
    answered = [part["type"] for part in answer["content"]]
    asked = [part["type"] for turn in turns for part in turn["content"]]
    if set(answered) == {"text"}:
        if "mask" in asked or not turns or turns[-1]["role"] != "user":
            return None
        return task if task in ("caption", "conversation") else "question"
    if len(turns) != 1 or turns[0]["role"] != "user" or len(answered) != 1:
        return None
    if answered == ["mask"]:
        return "referring" if asked == ["image", "text"] else None
    return {("text",): "text_to_image", ("image", "text"): "edit"}.get(tuple(asked))


def _without_pictures(rows: StoredRows) -> Iterator[dict]:
    if isinstance(rows, CocoMasks):
        for index, region in enumerate(rows.regions):
            concepts = [region.concept]
            yield {
                "messages": rows.messages(index), "task": "referring", "question_type": None, "concepts": concepts
            }  # fmt: skip
    else:
        yield from rows.remove_columns(["images", "masks"])


def _as_asked(turn: dict) -> dict:
    """A turn of a row as a chat template takes it."""
    content = [part if part["type"] == "text" else {"type": part["type"]} for part in turn["content"]]
    return {"role": turn["role"], "content": content}


def _told(turns: Sequence[dict]) -> str:
    """The turns as one text, by which predictions are known again: the last request alone where there is no other."""
    lines = [" ".join(part.get("text") or f"<{part['type']}>" for part in turn["content"]) for turn in turns]
    return "\n".join(f"{turn['role']}: {line}" for turn, line in zip(turns, lines, strict=True))


def _picture(rows: StoredRows, index: int, image: int) -> Image.Image:
    return rows[index]["images"][image]


def _mask(rows: StoredRows, index: int) -> np.ndarray:
    return np.asarray(rows[index]["masks"][0]) > 0


def _score_captions(examples: Sequence[Example], answers: Sequence[str], networks: Networks) -> dict[str, float]:
    truths = [example.truth for example in examples]
    return {"num_examples": len(examples)} | CaptionScores().compute(predictions=list(answers), references=truths)


def _score_questions(examples: Sequence[Example], answers: Sequence[str], networks: Networks) -> dict[str, float]:
    answers, truths = list(answers), [example.truth for example in examples]
    likeliest = [
        (example.group, Counter(given).most_common(1)[0][0]) for example, given in zip(examples, truths, strict=True)
    ]
    return {
        "num_examples": len(examples),
        **AnswerAccuracy().compute(predictions=answers, references=likeliest),
        "vqa_accuracy": VqaAccuracy().compute(predictions=answers, references=truths)["accuracy"],
    }


def _score_conversations(examples: Sequence[Example], answers: Sequence[str], networks: Networks) -> dict[str, float]:
    answers, truths = list(answers), [example.truth for example in examples]
    first = [(None, given[0]) for given in truths]
    accuracy = AnswerAccuracy().compute(predictions=answers, references=first)["accuracy"]
    rouge = RougeL().compute(predictions=answers, references=truths)
    return {"num_examples": len(examples), "accuracy": accuracy, **rouge}


def _score_painted(
    judge: Judge | None,
    concepts: Mapping[str, Sequence[str]],
    examples: Sequence[Example],
    answers: Sequence[Image.Image],
    networks: Networks,
) -> dict[str, float]:
    results = editing.score(examples, answers, networks)
    if judge is None:
        return results
    painted, true = AskedFound(), AskedFound()
    named = [pair for pair in enumerate(examples) if pair[1].key in concepts]
    for batch in batches(named):
        asked = [{judge.concept_index[name] for name in concepts[example.key]} for _, example in batch]
        references = [(indices, len(indices)) for indices in asked]
        for metric, pictures in (
            (painted, [answers[number] for number, _ in batch]),
            (true, [example.truth[0]() for _, example in batch]),
        ):
            metric.add_batch(predictions=judge.look(pictures).scores, references=references)
    return results | painted.compute() | {"true_found": true.compute()["found"]}


SCORES = {
    "caption": _score_captions,
    "question": _score_questions,
    "conversation": _score_conversations,
    "edit": editing.score,
    "referring": refcoco.score,
}
