"""Answers as they come, kept in a file from which a killed run goes on."""

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from training.data.entries.segmentations import mask_of, run_lengths
from training.evaluation.benchmark.answering import Answer
from training.evaluation.benchmark.benchmark import Example


class Predictions:
    """A JSONL file: first a line that says of what run, then one for each answer.

    A line is {"key", "request", "choices", "answer", "visual_tokens", "cut"}, with a checksum of the choices. Texts
    stand in it, masks as run lengths as COCO has them, uncompressed: {"size": [h, w], "counts": [...]}; pictures are
    PNG files in the folder of the file's name without ".jsonl", and {"file": name}.

    Args:
        file: may be there already; a last line that was not written to its end is taken off.
        run: what makes answers of two runs the same: benchmark, model, data, and so on.

    Raises:
        ValueError: the file holds answers of another run, or is no such file.
    """

    def __init__(self, file: Path, run: Mapping[str, Any]):
        self.file, self.folder = file, file.with_suffix("")
        self._records: dict[str, dict] = {}
        file.parent.mkdir(parents=True, exist_ok=True)
        content = file.read_bytes() if file.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            file.write_bytes(whole)
        if not whole:
            self._append(dict(run))
            return
        try:
            head, *records = map(json.loads, whole.splitlines())
            self._records = {record["key"]: record for record in records}
            differing = [name for name in {**head, **run} if head.get(name) != run.get(name)]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file} does not hold predictions as this command writes them: choose another --output, or delete the "
                "file."
            ) from error
        for name in differing:
            raise ValueError(
                f"{file} holds the answers of another run, with {name} {head.get(name)!r} instead of "
                f"{run.get(name)!r}: choose another --output, or delete the file."
            )

    def __len__(self) -> int:
        return len(self._records)

    def has(self, example: Example, request: str) -> bool:
        """Whether an example is answered.

        Raises:
            ValueError: it is, but to another request, or among other choices.
        """
        record = self._records.get(example.key)
        if record is not None and record["request"] != request:
            raise ValueError(
                f"{self.file} holds an answer of {example.key} to {record['request']!r}, and the files ask "
                f"{request!r}: choose another --output, or delete the file."
            )
        if record is not None and record["choices"] != _checksum(example.choices):
            raise ValueError(
                f"{self.file} holds an answer of {example.key} among other choices than the files have: choose another "
                "--output, or delete the file."
            )
        return record is not None

    def add(self, example: Example, request: str, answer: Answer) -> None:
        content = answer.content
        if isinstance(content, Image.Image):
            name = f"{quote(example.key, safe=' ')}.png"
            self.folder.mkdir(exist_ok=True)
            content.save(self.folder / name)
            content = {"file": name}
        elif isinstance(content, np.ndarray):
            content = run_lengths(content)
        record = {
            "key": example.key, "request": request, "choices": _checksum(example.choices), "answer": content,
            "visual_tokens": answer.num_visual_tokens, "cut": answer.is_cut,
        }  # fmt: skip
        self._append(record)
        self._records[example.key] = record

    def answers(self, keys: Sequence[str]) -> Sequence[Any]:
        """The answers to examples, as the model gave them; what is costly is made when asked for."""
        return _Answers([self._records[key]["answer"] for key in keys], self._read)

    def num_visual_tokens(self, key: str) -> int | None:
        return self._records[key]["visual_tokens"]

    def is_cut(self, key: str) -> bool:
        return self._records[key]["cut"]

    def _append(self, record: dict) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def _read(self, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        if "counts" in content:
            return mask_of(content)
        with Image.open(self.folder / content["file"]) as picture:
            return picture.convert("RGB")


def _checksum(choices: Sequence[str]) -> int:
    return zlib.crc32("\n".join(choices).encode())


class _Answers(Sequence):
    def __init__(self, contents: list, read: Callable[[Any], Any]):
        self._contents, self._read = contents, read

    def __len__(self) -> int:
        return len(self._contents)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return _Answers(self._contents[index], self._read)
        return self._read(self._contents[index])
