"""What a benchmark is: how its files become examples, and how answers to them are scored and handed in.

The data flow one way: `Benchmark.read` -> examples -> a model's answers (`answering.py`), kept as they come
(`predictions.py`) -> `Benchmark.score` and `Benchmark.submission`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from PIL import Image, ImageOps

from training.evaluation.report import Row

PictureSource = Path | Callable[[], Image.Image]


def open_picture(source: PictureSource) -> Image.Image:
    """In RGB, upright; of a file, or what the function gives.

    Raises:
        ValueError: a file that is no picture, or is broken.
    """
    if callable(source):
        return ImageOps.exif_transpose(source()).convert("RGB")
    try:
        with Image.open(source) as file:
            return ImageOps.exif_transpose(file).convert("RGB")
    except Exception as error:  # decoders raise anything on broken bytes
        raise ValueError(f"picture {source} cannot be read: {error}") from error


@dataclass(frozen=True)
class Example:
    """One thing that a model is asked.

    Attributes:
        key: names it within the benchmark and stays the same from run to run: the official id where there is one.
        request: what the user says; empty where nothing is said (reconstruction). Of a "mask" benchmark only what is
            to be found, such as "the dog": a model has words of its own around it.
        images: pictures that the request is about, in its order: files or functions that give them, which are read when
            the model is asked.
        truth: what the scorer compares the answer with, in the benchmark's own form.
        group: finer kind, for results by kind; `None` where there is none.
        choices: of a "choice" benchmark the possible answers, of which the most likely one counts.
        then: of an "image" benchmark further requests, each about the picture that answers the one before; the answer
            to the last one counts.
        turns: the conversation word for word, `{"role", "content"}` with a part `{"type": "image"}` for each of
            `images`; the request, which then is not put into words of the model's own, is its last turn. Empty: a
            single turn, the pictures first.
    """

    key: str
    request: str
    images: tuple[PictureSource, ...] = ()
    truth: Any = None
    group: str | None = None
    choices: tuple[str, ...] = ()
    then: tuple[str, ...] = ()
    turns: tuple[dict, ...] = ()

    def pictures(self) -> list[Image.Image]:
        """The images as PIL pictures in RGB, upright."""
        return [open_picture(path) for path in self.images]


@dataclass(frozen=True)
class Networks:
    """The networks that judge pictures, by what the command line names; `None` where it names none.

    Attributes:
        features: folder or Hub id of a vision encoder of transformers, for Fréchet distances and image similarity.
        clip: folder or Hub id of a CLIP of transformers, for similarity of pictures and texts.
        lpips: the file of `python -m training.packaged_models.lpips_vgg`.
        device: where they run.
    """

    features: str | None = None
    clip: str | None = None
    lpips: str | None = None
    device: str | torch.device = "cpu"


class Read(Protocol):
    def __call__(self, data: Path, split: str) -> list[Example]:
        """The examples in the files of a folder, as released, of one of the benchmark's `splits`.

        Raises:
            ValueError: a file that is missing or of another form: says which and what to do.
        """


@dataclass(frozen=True)
class Benchmark:
    """A public benchmark.

    Attributes:
        name: on the command line, such as "vqav2".
        answer: what a model gives: "text", the most likely "choice", a "mask" (H, W) bool of the picture's size, an
            "image" (PIL), or the "reconstruction" (PIL) of a picture by a SeTok.
        splits: names that `read` takes; the first is the default.
        files: which files of the release are read, and from where in the folder, for people.
        definition: whose definition of the metric it is (publication, official scorer), for people.
        read: files -> examples.
        score: (examples, answers, networks) -> results, of which `rows` says how they are shown. A figure whose network
            is not named is left out.
        rows: the table; the first row counts the examples (key "num_examples").
        submission: (examples, answers) -> file name -> content, in the official format; `None` where there is none.
        answer_form: added to each request, such as "Answer the question using a single word or phrase.", in the
            published wording that models are measured by; "" where there is none.
        max_new_tokens: of a text.
        packaged: the folder of its data where an installed package carries them; `None` where none does.
    """

    name: str
    answer: Literal["text", "choice", "mask", "image", "reconstruction"]
    splits: tuple[str, ...]
    files: str
    definition: str
    read: Read
    score: Callable[[Sequence[Example], Sequence[Any], Networks], dict[str, float]]
    rows: Sequence[Row]
    submission: Callable[[Sequence[Example], Sequence[Any]], Mapping[str, str]] | None = None
    answer_form: str = ""
    max_new_tokens: int = 16
    packaged: Callable[[], Path] | None = None
