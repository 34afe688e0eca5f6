"""Text to image on the captions of COCO."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from training.data.entries.files import find_picture, read_json
from training.data.entries.values import identifier, listed, text
from training.evaluation.benchmark.benchmark import Benchmark, Example, Networks, open_picture
from training.evaluation.benchmark.generation.networks import Clip, frechet_distances
from training.evaluation.benchmark.generation.pictures import batches, central_square, to_tensors
from training.evaluation.benchmark.released import checked, released
from training.evaluation.metrics import FeatureSimilarity
from training.evaluation.report import Row

SPLITS = ("val2014", "val2017")
MOST_PICTURES, SEED = 30_000, 0
SIDE = 256  # of the squares whose features are compared
REQUEST = "Draw: {}."


def read(data: Path, split: str) -> list[Example]:
    """At most `MOST_PICTURES` pictures, each with the first of its captions. Their order is drawn, with a fixed seed:
    so the first of them are a sample as well."""
    file, folder = released(data, f"annotations/captions_{split}.json"), released(data, split)
    (content,) = checked([read_json(file, dict)], file, images=listed, annotations=listed)
    pictures = checked(content["images"], f"{file}: 'images'", id=identifier, file_name=text)
    names = {picture["id"]: picture["file_name"] for picture in pictures}
    captions = {}
    for record in checked(content["annotations"], f"{file}: 'annotations'", image_id=identifier, caption=text):
        captions.setdefault(record["image_id"], " ".join(record["caption"].split()))
    described = [picture for picture in names if picture in captions]
    order = np.random.default_rng(SEED).permutation(len(described))[:MOST_PICTURES]
    drawn = [described[i] for i in order]
    return [_example(picture, captions[picture], find_picture(names[picture], folder)) for picture in drawn]


def _example(picture: int, caption: str, path: str) -> Example:
    return Example(key=str(picture), request=REQUEST.format(caption.rstrip(".")), truth=(Path(path), caption))


def score(examples: Sequence[Example], answers: Sequence[Any], networks: Networks) -> dict[str, float]:
    """`fid_inception` or `fd_encoder`, between central squares of the painted and the photographed pictures; from two
    pictures on. `clip_similarity`, the mean cosine of CLIP's features of a painted picture and its caption, and
    `clip_similarity_photographs` of the photographs."""
    frechet = frechet_distances(networks) if len(examples) > 1 else {}
    clip = None if networks.clip is None else Clip.from_pretrained(networks.clip, networks.device)
    painted_similarity, photographed_similarity = FeatureSimilarity(), FeatureSimilarity()
    for batch in batches(zip(examples, answers, strict=True)):
        painted = [answer for _, answer in batch]
        photographed = [open_picture(example.truth[0]) for example, _ in batch]
        for metric in frechet.values():
            metric.add_batch(predictions=_squares(painted, networks), references=_squares(photographed, networks))
        if clip is not None:
            captions = clip.encode_texts([example.truth[1] for example, _ in batch])
            painted_similarity.add_batch(predictions=clip.encode(painted), references=captions)
            photographed_similarity.add_batch(predictions=clip.encode(photographed), references=captions)
    results = {"num_examples": len(examples)} | {key: metric.compute()["fid"] for key, metric in frechet.items()}
    if clip is not None:
        results["clip_similarity"] = painted_similarity.compute()["similarity"]
        results["clip_similarity_photographs"] = photographed_similarity.compute()["similarity"]
    return results


def _squares(pictures: Sequence[Image.Image], networks: Networks) -> torch.Tensor:
    return to_tensors([central_square(picture, SIDE) for picture in pictures], networks.device)


COCO_TEXT_TO_IMAGE = Benchmark(
    name="coco-text-to-image",
    answer="image",
    splits=SPLITS,
    files="annotations/captions_val2014.json and the pictures in val2014; so val2017",
    definition="FID (Heusel et al. 2017) as text-to-image papers report it: up to 30,000 pictures drawn from val2014, "
    "a caption each, at 256 x 256; CLIP score (Hessel et al. 2021) as the plain cosine",
    read=read,
    score=score,
    rows=(
        Row("captions", "num_examples", ".0f"),
        Row("FID, Inception (less is better)", "fid_inception", ".2f"),
        Row("Fréchet distance, encoder of --features", "fd_encoder", ".2f"),
        Row(
            "CLIP score (cosine), CLIP of --clip",
            "clip_similarity",
            beside={"photographs": "clip_similarity_photographs"},
        ),
    ),
)
