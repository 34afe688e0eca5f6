"""easy-VQA: simple questions about a shape in a picture. Its package on PyPI, easy-vqa, carries all of it."""

from collections.abc import Sequence
from pathlib import Path

import datasets

from training.data.readers.easy_vqa import SPLITS, easy_vqa_folder, load_easy_vqa
from training.evaluation.benchmark.benchmark import Benchmark, Example, Networks
from training.evaluation.benchmark.understanding.vqa import QUESTIONS
from training.evaluation.metrics import AnswerAccuracy
from training.evaluation.report import Row


def read(data: Path, split: str) -> list[Example]:
    """The questions, as training reads them. The truth is the kind of the question, and the answer."""
    rows = load_easy_vqa(split, data).cast_column("images", datasets.List(datasets.Image(decode=False)))
    return [
        Example(
            key=str(number),
            request=asked["content"][-1]["text"],
            images=(Path(image["path"]),),
            truth=(kind, answer["content"][0]["text"]),
        )
        for number, ((image,), (asked, answer), kind) in enumerate(
            zip(rows["images"], rows["messages"], rows["question_type"], strict=True)
        )
    ]


def score(examples: Sequence[Example], answers: Sequence[str], networks: Networks) -> dict[str, float]:
    """See `AnswerAccuracy`, of all questions and of those for yes or no, a colour, a shape."""
    truths = [example.truth for example in examples]
    return {"num_examples": len(examples)} | AnswerAccuracy().compute(predictions=list(answers), references=truths)


EASY_VQA = Benchmark(
    name="easy-vqa",
    answer="text",
    splits=tuple(reversed(SPLITS)),
    files="test/questions.json and test/images, by default those of the installed package easy-vqa",
    definition="the part of the answers that are right, https://github.com/vzhou842/easy-VQA; a model that was not "
    "trained on it needs an --answer_form",
    read=read,
    score=score,
    rows=(
        QUESTIONS,
        Row("accuracy", "accuracy", beside={"likeliest answer": "majority"}),
        *(
            Row(f"  {title}", f"{kind}_accuracy", beside={"likeliest answer": f"{kind}_majority"})
            for kind, title in {"yes_no": "yes or no", "colour": "colours", "shape": "shapes"}.items()
        ),
    ),
    packaged=easy_vqa_folder,
)
