"""MME: two yes-or-no questions about each picture, in fourteen categories."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from training.evaluation.benchmark.benchmark import Benchmark, Example, Networks
from training.evaluation.benchmark.released import read_text
from training.evaluation.benchmark.understanding.vqa import QUESTIONS, SHORT_ANSWER
from training.evaluation.metrics import MmeScores
from training.evaluation.metrics.mme import COGNITION, PERCEPTION
from training.evaluation.report import Row

CATEGORIES = (*PERCEPTION, *COGNITION)
SUFFIXES = (".jpg", ".jpeg", ".png")
ROOTS = (".", "MME_Benchmark", "MME_Benchmark_release_version", "MME_Benchmark_release_version/MME_Benchmark")


def read(data: Path, split: str) -> list[Example]:
    """The categories one after the other; in each the pictures by name, with both questions."""
    root = next((data / name for name in ROOTS if (data / name / CATEGORIES[0]).is_dir()), None)
    lacking = [name for name in CATEGORIES if root is None or not (root / name).is_dir()]
    if lacking:
        raise ValueError(f"{data} lacks MME's folders {', '.join(lacking)}: give the folder that holds all of them.")
    return [example for category in CATEGORIES for example in _of_category(root / category)]


def _of_category(folder: Path) -> Iterator[Example]:
    """Texts stand beside their pictures, or in `questions_answers_YN` beside `images`."""
    texts, pictures = folder / "questions_answers_YN", folder / "images"
    if not texts.is_dir():
        texts = pictures = folder
    files = sorted(texts.glob("*.txt"))
    if not files:
        raise ValueError(f"{texts} holds no text files with questions")
    by_name = {path.stem: path for path in sorted(pictures.iterdir()) if path.suffix.lower() in SUFFIXES}
    for file in files:
        if file.stem not in by_name:
            raise ValueError(f"{pictures} has no picture {file.stem}, which {file} asks about")
        picture = by_name[file.stem]
        lines = [line.split("\t") for line in read_text(file).splitlines() if line.strip()]
        if len(lines) != 2 or any(len(line) != 2 or line[1].strip().lower() not in ("yes", "no") for line in lines):
            raise ValueError(f"{file} must hold two lines, each a question, a tab, and Yes or No")
        for number, (question, answer) in enumerate(lines, start=1):
            yield Example(
                key=f"{folder.name}/{picture.name}-{number}",
                request=question,
                images=(picture,),
                truth=(folder.name, picture.name, answer.strip().lower()),
                group=folder.name,
            )


def score(examples: Sequence[Example], answers: Sequence[str], networks: Networks) -> dict[str, float]:
    """See `MmeScores`. Of a picture whose second question lies behind the `--limit`, neither counts."""
    asked = Counter(example.truth[:2] for example in examples)
    pairs = [
        (answer, example.truth)
        for example, answer in zip(examples, answers, strict=True)
        if asked[example.truth[:2]] == 2
    ]
    results = {"num_examples": len(pairs)}
    if len(pairs) < len(examples):
        results["num_unpaired"] = len(examples) - len(pairs)
    if pairs:
        predictions, references = zip(*pairs, strict=True)
        results |= MmeScores().compute(predictions=predictions, references=references)
    return results


def submission(examples: Sequence[Example], answers: Sequence[str]) -> dict[str, str]:
    """The files for the official calculation.py: of each category lines of picture, question, truth and answer."""
    lines: dict[str, list[str]] = {}
    for example, answer in zip(examples, answers, strict=True):
        category, picture, truth = example.truth
        line = "\t".join((picture, example.request, truth.capitalize(), " ".join(answer.split())))
        lines.setdefault(f"{category}.txt", []).append(line + "\n")
    return {name: "".join(of_category) for name, of_category in lines.items()}


MME = Benchmark(
    name="mme",
    answer="text",
    splits=("test",),
    files="a folder for each category, such as existence, with pictures and texts of the same names (or in images and "
    "questions_answers_YN), in the folder itself or in MME_Benchmark_release_version",
    definition="Fu et al. 2023 and their calculation.py",
    read=read,
    score=score,
    rows=(
        replace(QUESTIONS, beside={"without the other of their picture, left out": "num_unpaired"}),
        Row("perception (of 2000)", "perception", ".1f"),
        Row("cognition (of 800)", "cognition", ".1f"),
        *(
            Row(f"  {name}: score (of 200)", f"{name}_score", ".1f", {
                "accuracy": f"{name}_accuracy", "accuracy+": f"{name}_accuracy_plus"
            })
            for name in CATEGORIES
        ),
    ),
    submission=submission,
    answer_form=SHORT_ANSWER,
)  # fmt: skip
