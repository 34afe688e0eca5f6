"""What easy-VQA takes: a small CNN with a bag of words, trained here in a minute, and what needs no picture.

python -m training.evaluation.benchmark.easy_vqa_baseline --output results.json

Whoever reads the pictures must beat the most frequent answer, and the most frequent answer to each question; whoever
uses a large model should beat the CNN, which is of the kind that the data set's author shows.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from training.data import load_easy_vqa
from training.evaluation.metrics import AnswerAccuracy
from training.evaluation.report import Row, choose_device, format_rows, mistakes_in_words, write_results

BASELINES = {
    "most_frequent": "the most frequent answer",
    "most_frequent_of_question": "the most frequent answer to the question",
    "cnn": "CNN and bag of words",
}
ROWS = [
    Row("questions", "num_examples", ".0f"),
    *(
        Row(
            title,
            f"{name}_accuracy",
            beside={kind: f"{name}_{kind}_accuracy" for kind in ("yes_no", "shape", "colour")},
        )
        for name, title in BASELINES.items()
    ),
]


@dataclass(frozen=True)
class Questions:
    """A split of easy-VQA.

    Attributes:
        pixels: (P, 3, H, W) uint8, each picture once.
        picture: (Q,) int64, of each question its picture.
        texts, kinds, answers: of each question.
    """

    pixels: Tensor
    picture: Tensor
    texts: Sequence[str]
    kinds: Sequence[str]
    answers: Sequence[str]

    @classmethod
    def from_rows(cls, rows: datasets.Dataset) -> "Questions":
        """Of what `load_easy_vqa` gave."""
        paths = rows.cast_column("images", datasets.List(datasets.Image(decode=False)))["images"]
        paths = [images[0]["path"] for images in paths]
        places = {path: number for number, path in enumerate(dict.fromkeys(paths))}
        messages = rows["messages"]
        return cls(
            pixels=torch.stack([_pixels(path) for path in places]),
            picture=torch.tensor([places[path] for path in paths]),
            texts=[asked["content"][-1]["text"] for asked, _ in messages],
            kinds=rows["question_type"],
            answers=[answer["content"][0]["text"] for _, answer in messages],
        )


class BagOfWordsCnn(nn.Module):
    """Answers a question about a picture from the picture's features and the words of the question.

    Args:
        words: that it knows, without regard to their order.
        answers: that it can give.
        width: of the features.
    """

    def __init__(self, words: Sequence[str], answers: Sequence[str], width: int = 64):
        super().__init__()
        self.words, self.answers = list(words), list(answers)
        channels = (3, 16, 32, width)
        self.see = nn.Sequential(
            *(
                layer
                for before, after in zip(channels, channels[1:], strict=False)
                for layer in (nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU())
            ),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        self.read = nn.Sequential(nn.Linear(len(self.words), width), nn.ReLU(), nn.Linear(width, width))
        self.answer = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, len(self.answers)))

    def forward(self, pixels: Tensor, bags: Tensor, picture: Tensor) -> Tensor:
        """Logits (Q, A) float32 of the answers.

        Args:
            pixels: (P, 3, H, W) uint8, each picture once.
            bags: (Q, W) float32, how often each word is in each question (see `bag`).
            picture: (Q,) int64, of each question its picture in `pixels`.
        """
        seen, asked = self.see(pixels.float() / 127.5 - 1)[picture], self.read(bags)
        return self.answer(torch.cat([seen * asked, asked], dim=1))

    def bag(self, texts: Iterable[str]) -> Tensor:
        """(Q, W) float32, how often each of the known words is in each text."""
        counts = (Counter(words_of(text)) for text in texts)
        return torch.tensor([[float(count[word]) for word in self.words] for count in counts])


def words_of(text: str) -> list[str]:
    """ "What is it?" -> ["what", "is", "it"]."""
    return text.lower().replace("?", " ").split()


def most_frequent_answers(train: Questions, asked: Sequence[str]) -> tuple[list[str], list[str]]:
    """To each question the answer that is most frequent in training, and the one that is to this question; where it is
    new, the former."""
    ((most, _),) = Counter(train.answers).most_common(1)
    of_question = defaultdict(Counter)
    for question, answer in zip(train.texts, train.answers, strict=True):
        of_question[question][answer] += 1
    best = {question: counts.most_common(1)[0][0] for question, counts in of_question.items()}
    return [most] * len(asked), [best.get(question, most) for question in asked]


def train_cnn(
    train: Questions, epochs: int, batch_size: int = 64, seed: int = 0, device: torch.device | str = "cpu"
) -> BagOfWordsCnn:
    """A `BagOfWordsCnn` trained with AdamW on all questions about `batch_size` pictures at a time, the learning rate
    falling from 0.003 to nothing."""
    words = sorted({word for question in set(train.texts) for word in words_of(question)})
    torch.manual_seed(seed)
    model = BagOfWordsCnn(words, sorted(set(train.answers))).to(device)
    bags = _bags(model, train.texts)
    answers = torch.tensor([model.answers.index(answer) for answer in train.answers])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003, weight_decay=0.01)
    generator = np.random.default_rng(seed)
    batches = [batch for _ in range(epochs) for batch in _batches(train.picture, batch_size, generator)]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    model.train()
    for pictures, questions, places in tqdm(batches, desc="train", leave=False):
        logits = model(train.pixels[pictures].to(device), bags[questions].to(device), places.to(device))
        loss = nn.functional.cross_entropy(logits, answers[questions].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def answers_of(model: BagOfWordsCnn, asked: Questions, batch_size: int = 256) -> list[str]:
    """Of a trained model, to each question."""
    bags, device = _bags(model, asked.texts), next(model.parameters()).device
    said: list[str] = [""] * len(asked.texts)
    for pictures, questions, places in _batches(asked.picture, batch_size):
        logits = model(asked.pixels[pictures].to(device), bags[questions].to(device), places.to(device))
        for question, answer in zip(questions.tolist(), logits.argmax(1).tolist(), strict=True):
            said[question] = model.answers[answer]
    return said


def measure(said: Mapping[str, Sequence[str]], asked: Questions) -> dict[str, float]:
    """`num_examples`, and of each who answered, by name, `<name>_accuracy` and that of each kind (see
    `AnswerAccuracy`)."""
    results = {"num_examples": len(asked.texts)}
    references = list(zip(asked.kinds, asked.answers, strict=True))
    for name, answers in said.items():
        scores = AnswerAccuracy().compute(predictions=answers, references=references)
        results |= {f"{name}_{key}": value for key, value in scores.items() if key.endswith("accuracy")}
    return results


def _pixels(path: str) -> Tensor:
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def _bags(model: BagOfWordsCnn, texts: Sequence[str]) -> Tensor:
    different = {question: number for number, question in enumerate(dict.fromkeys(texts))}
    return model.bag(different)[[different[question] for question in texts]]


def _batches(
    picture: Tensor, batch_size: int, generator: np.random.Generator | None = None
) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
    """Pictures, the questions about them, and of each question the place of its picture among these; in random order
    with a generator."""
    order = np.arange(int(picture.max()) + 1)
    if generator is not None:
        generator.shuffle(order)
    for start in range(0, len(order), batch_size):
        pictures = torch.from_numpy(order[start : start + batch_size])
        places = torch.full((len(order),), -1)
        places[pictures] = torch.arange(len(pictures))
        questions = (places[picture] >= 0).nonzero()[:, 0]
        yield pictures, questions, places[picture[questions]]


@dataclass
class Arguments:
    data: str | None = field(default=None, metadata={"help": "folder of easy-VQA; default: the package easy-vqa"})
    epochs: int = field(default=20, metadata={"help": "times that the CNN sees the training part"})
    seed: int = field(default=0, metadata={"help": "of its weights and of the order of the pictures"})
    device: str | None = field(default=None, metadata={"help": "default: the accelerator, or the CPU without one"})
    output: str | None = field(default=None, metadata={"help": "JSON file for the results"})


@mistakes_in_words()
def main(given: Sequence[str] | None = None) -> None:
    (arguments,) = HfArgumentParser(Arguments, description=__doc__).parse_args_into_dataclasses(given)
    train, test = (Questions.from_rows(load_easy_vqa(split, arguments.data)) for split in ("train", "test"))
    start = time.perf_counter()
    model = train_cnn(train, arguments.epochs, seed=arguments.seed, device=choose_device(arguments.device))
    most_frequent, of_question = most_frequent_answers(train, test.texts)
    said = dict(zip(BASELINES, (most_frequent, of_question, answers_of(model, test)), strict=True))
    results = measure(said, test) | {"seconds": time.perf_counter() - start}
    print(f"easy-VQA, test, {results['seconds']:.0f} s\n\n{format_rows(ROWS, results)}")
    if arguments.output:
        write_results(arguments.output, arguments, results)


if __name__ == "__main__":
    main()
