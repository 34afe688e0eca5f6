"""Editing by instructions: MagicBrush, EVR and MA5K. All have the true result to compare with."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from training.data.entries.files import find_picture, read_json
from training.data.entries.values import listed, text
from training.evaluation.benchmark.benchmark import Benchmark, Example, Networks, open_picture
from training.evaluation.benchmark.generation.networks import INCEPTION, Clip, PictureEncoder, perceptual_distances
from training.evaluation.benchmark.generation.pictures import resized, to_tensors
from training.evaluation.benchmark.released import checked, released
from training.evaluation.metrics import (
    FeatureSimilarity,
    LearnedPerceptualDistance,
    MeanAbsoluteError,
    MeanSquaredError,
)
from training.evaluation.report import Row

UNCHANGED = "unchanged_"  # prefix of what the picture that was to be edited would score


def read_turns(data: Path, split: str) -> list[Example]:
    """Every turn of MagicBrush, each from the true picture before it. The truth of this and the other readers: the file
    of the true result, and its caption or `None`."""
    file = released(data, f"{split}/edit_turns.json")
    captions = _captions(file)
    return [_session([turn], file, captions) for turn in read_json(file, list)]


def read_sessions(data: Path, split: str) -> list[Example]:
    """Every session of MagicBrush, from its first picture to the result of its last turn."""
    file = released(data, f"{split}/edit_sessions.json")
    captions = _captions(file)
    return [_session(turns, file, captions) for turns in read_json(file, dict).values()]


def _session(turns: object, file: Path, captions: dict) -> Example:
    turns = list(checked(listed(turns, f"{file}: a session"), file, input=text, output=text, instruction=text))
    if not turns:
        raise ValueError(f"{file} has a session without turns")
    first, last = turns[0]["input"], turns[-1]["output"]
    session = first.split("-")[0]  # "139306-input.png" and "139306-output1.png" lie in the folder 139306
    before, after = (Path(find_picture(f"{session}/{name}", file.with_name("images"))) for name in (first, last))
    instruction, *then = (turn["instruction"] for turn in turns)
    truth = (after, captions.get(session, {}).get(last))
    return Example(key=after.stem, request=instruction, images=(before,), truth=truth, then=tuple(then))


def _captions(file: Path) -> dict:
    """Session -> name of a result -> what was to be changed in it, where the release's file of them is there."""
    described = file.with_name("local_descriptions.json")
    return read_json(described, dict) if described.is_file() else {}


def read_evr(data: Path, split: str) -> list[Example]:
    """Every one of the requests that people wrote for a pair of pictures."""
    file, folder = released(data, f"{split}.json"), released(data, "images")
    examples = []
    for pair in checked(read_json(file, list), file, img0=text, img1=text, sents=listed, uid=text):
        for number, request in enumerate(pair["sents"]):
            request = text(request, f"{file}: {pair['uid']}, 'sents'").strip()
            examples.append(_pair(f"{pair['uid']}-{number}", request, pair["img0"], pair["img1"], folder))
    return examples


def read_ma5k(data: Path, split: str) -> list[Example]:
    file, folder = released(data, f"annotations/{split}_sess_1.json"), released(data, "images")
    pairs = checked(read_json(file, list), file, input=text, output=text, request=text)
    return [
        _pair(f"{number}-{Path(pair['output']).stem}", pair["request"].strip(), pair["input"], pair["output"], folder)
        for number, pair in enumerate(pairs)
    ]


def _pair(key: str, request: str, before: str, after: str, folder: Path) -> Example:
    paths = [Path(find_picture(name, folder)) for name in (before, after)]
    return Example(key=key, request=request, images=(paths[0],), truth=(paths[1], None))


def score(examples: Sequence[Example], answers: Sequence[Any], networks: Networks) -> dict[str, float]:
    """Means over examples of what `_Measures` tells of the answer and, with `unchanged_`, of the picture before, where
    there is one."""
    measures = _Measures(networks)
    edited, unchanged = measures.new(), measures.new()
    for example, answer in zip(examples, answers, strict=True):
        after, caption = example.truth
        truth = open_picture(after)
        measures.add(edited, answer, truth, caption)
        for before in example.pictures()[-1:]:
            measures.add(unchanged, before, truth, caption)
    results = {"num_examples": len(examples)} | _means(edited)
    return results | {UNCHANGED + key: value for key, value in _means(unchanged).items()}


class _Measures:
    """Of a picture and the true one, as MagicBrush has them: `l1`, `l2` and `lpips_vgg` at the size of the true one, of
    pixels in [0, 1]; `clip_image_similarity` and `encoder_image_similarity`, cosines of the features of both as each
    network's own processor prepares them; `clip_text_similarity` with the caption of the true one, where it has one."""

    def __init__(self, networks: Networks):
        self.device, self.lpips = networks.device, perceptual_distances(networks)
        self.clip = None if networks.clip is None else Clip.from_pretrained(networks.clip, networks.device)
        self.encoder = None
        if networks.features not in (None, INCEPTION):
            self.encoder = PictureEncoder.from_pretrained(networks.features, networks.device)

    def new(self) -> dict:
        """Metrics that have seen nothing."""
        metrics = {"l1": MeanAbsoluteError(), "l2": MeanSquaredError()}
        if self.lpips is not None:
            metrics["lpips_vgg"] = LearnedPerceptualDistance(self.lpips)
        names = ("clip_image_similarity", "encoder_image_similarity", "clip_text_similarity")
        return metrics | {name: FeatureSimilarity() for name in names}

    def add(self, metrics: dict, picture: Image.Image, truth: Image.Image, caption: str | None) -> None:
        pixels = to_tensors([resized(picture, truth.size), truth], self.device).split(1)
        for key in metrics.keys() & {"l1", "l2", "lpips_vgg"}:
            metrics[key].add_batch(predictions=pixels[0], references=pixels[1])
        for key, encoder in (("clip_image_similarity", self.clip), ("encoder_image_similarity", self.encoder)):
            if encoder is not None:
                features = encoder.encode([picture, truth])
                metrics[key].add_batch(predictions=features[:1], references=features[1:])
        if self.clip is not None and caption is not None:
            metrics["clip_text_similarity"].add_batch(
                predictions=self.clip.encode([picture]), references=self.clip.encode_texts([caption])
            )


def _means(metrics: dict) -> dict[str, float]:
    return {key: next(iter(metric.compute().values())) for key, metric in metrics.items() if len(metric)}


def _row(title: str, key: str) -> Row:
    return Row(title, key, ".4f", {"picture unchanged": UNCHANGED + key})


ROWS = (
    Row("edits", "num_examples", ".0f"),
    _row("L1 to the true result (less is better)", "l1"),
    _row("L2, mean square (less is better)", "l2"),
    _row("LPIPS, VGG (less is better)", "lpips_vgg"),
    _row("CLIP image similarity, CLIP of --clip", "clip_image_similarity"),
    _row("image similarity, encoder of --features", "encoder_image_similarity"),
    _row("CLIP text similarity, CLIP of --clip", "clip_text_similarity"),
)
MAGIC_BRUSH = Benchmark(
    name="magicbrush",
    answer="image",
    splits=("test", "dev"),
    files="test/edit_turns.json, test/images/, and test/local_descriptions.json for CLIP-T; so dev",
    definition="Zhang et al. 2023 and its image_eval.py, single-turn: L1, L2, CLIP-I, DINO (with DINO's ViT-S/16 as "
    "--features), CLIP-T; LPIPS as the SeTok paper has it",
    read=read_turns,
    score=score,
    rows=ROWS,
)
MAGIC_BRUSH_MULTI_TURN = replace(
    MAGIC_BRUSH,
    name="magicbrush-multi-turn",
    files=MAGIC_BRUSH.files.replace("turns", "sessions"),
    definition=MAGIC_BRUSH.definition.replace("single-turn", "multi-turn (final turn)"),
    read=read_sessions,
)
EVR = Benchmark(
    name="evr",
    answer="image",
    splits=("test", "valid"),
    files="test.json and images/ of the Image Editing Request data; so valid",
    definition="data: Tan et al. 2019; L1, LPIPS, CLIP image similarity as the SeTok paper has them, computed as for "
    "MagicBrush; each request of a pair counts",
    read=read_evr,
    score=score,
    rows=ROWS,
)
MA5K = Benchmark(
    name="ma5k",
    answer="image",
    splits=("test", "val"),
    files="annotations/test_sess_1.json and images/ of MA5k-Req (T2ONet's FiveK); so val",
    definition="data: Shi et al. 2021; L1 as there, LPIPS and CLIP image similarity as the SeTok paper has them",
    read=read_ma5k,
    score=score,
    rows=ROWS,
)
