"""easy-VQA: simple questions about a shape in a picture. Its package on PyPI, easy-vqa, carries all of it."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from training.data.readers.files import find_picture, read_json
from training.data.readers.values import quoted, text
from training.evaluation.benchmark.benchmark import Benchmark, Example, Networks
from training.evaluation.benchmark.released import check_split, released
from training.evaluation.benchmark.understanding.vqa import QUESTIONS, SHORT_ANSWER
from training.evaluation.metrics import AnswerAccuracy
from training.evaluation.report import Row

SPLITS = ("test", "train")
SHAPES = ("circle", "rectangle", "triangle")


def packaged() -> Path:
    """The data in the installed package."""
    package = find_spec("easy_vqa")
    if package is None:
        raise ValueError("The package easy-vqa is not installed: pip install easy-vqa, or give --data.")
    return Path(package.submodule_search_locations[0]) / "data"


def read(data: Path, split: str) -> list[Example]:
    """test/questions.json is [[question, answer, number of its picture], ...]."""
    check_split("easy-vqa", split, SPLITS)
    file = released(data, f"{split}/questions.json")
    examples = []
    for index, entry in enumerate(read_json(file, list)):
        if not isinstance(entry, list) or len(entry) != 3 or not isinstance(entry[2], int):
            raise ValueError(f"{file}, entry {index} must be [question, answer, picture], not {quoted(entry)}")
        question, answer = (text(value, f"{file}, entry {index}") for value in entry[:2])
        picture = Path(find_picture(f"{entry[2]}.png", file.parent / "images"))
        examples.append(Example(str(index), question, (picture,), (_kind(answer), answer)))
    return examples


def _kind(answer: str) -> str:
    return "yes_no" if answer in ("yes", "no") else "shape" if answer in SHAPES else "colour"


def score(examples: Sequence[Example], answers: Sequence[str], networks: Networks) -> dict[str, float]:
    """See `AnswerAccuracy`, of all questions and of those for yes or no, a colour, a shape."""
    truths = [example.truth for example in examples]
    return {"num_examples": len(examples)} | AnswerAccuracy().compute(predictions=list(answers), references=truths)


EASY_VQA = Benchmark(
    name="easy-vqa",
    answer="text",
    splits=SPLITS,
    files="test/questions.json and test/images, by default those of the installed package easy-vqa",
    definition="the part of the answers that are right, https://github.com/vzhou842/easy-VQA",
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
    answer_form=SHORT_ANSWER,
    packaged=packaged,
)
