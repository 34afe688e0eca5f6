"""Captions of COCO and Flickr30k, compared with those that five people wrote."""

import json
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from training.data.entries.files import find_picture, read_json
from training.data.entries.records import whole_number
from training.data.entries.values import listed, text
from training.evaluation.benchmark.benchmark import Benchmark, Example, Networks
from training.evaluation.benchmark.released import checked, released, some
from training.evaluation.metrics import CaptionScores
from training.evaluation.report import Row

REQUEST = "Provide a one-sentence caption for the provided image."
KARPATHY = ("test", "val")  # splits of Karpathy and Fei-Fei 2015
COCO_YEARS = ("val2017", "val2014")
FLICKR_FOLDERS = ("flickr30k-images", "flickr30k_images", "images")


def read_coco(data: Path, split: str) -> list[Example]:
    """Of Karpathy's splits by dataset_coco.json, or of COCO's own by captions_val2014.json or captions_val2017.json."""
    if split in KARPATHY:
        return _read_karpathy(released(data, "dataset_coco.json"), split, "cocoid", [data, data / "images"])
    file = released(data, f"captions_{split}.json", f"annotations/captions_{split}.json")
    return _read_annotations(file, [data / split, data / "images" / split, data / "images"])


def read_flickr(data: Path, split: str) -> list[Example]:
    """By dataset_flickr30k.json."""
    folder = released(data, *FLICKR_FOLDERS, remedy="It holds the pictures.")
    return _read_karpathy(released(data, "dataset_flickr30k.json"), split, "imgid", [folder])


def _read_karpathy(file: Path, split: str, number: str, folders: list[Path]) -> list[Example]:
    """{"images": [{"filename", "filepath", "split", "sentences": [{"raw"}, ...], ...}, ...]}."""
    records = checked(
        listed(read_json(file, dict).get("images"), f"{file}: 'images'"),
        file,
        filename=text,
        split=text,
        sentences=listed,
        **{number: whole_number},
    )
    examples = []
    for record in records:
        if record["split"] == split:
            name = "/".join(filter(None, [record.get("filepath"), record["filename"]]))
            sentences = some(record["sentences"], f"{file}: 'sentences' of {name}")
            captions = [sentence["raw"] for sentence in checked(sentences, file, raw=text)]
            picture = Path(find_picture(name, *folders))
            examples.append(Example(str(record[number]), "", (picture,), captions))
    return examples


def _read_annotations(file: Path, folders: list[Path]) -> list[Example]:
    """{"images": [{"id", "file_name"}, ...], "annotations": [{"image_id", "caption"}, ...]}."""
    content = read_json(file, dict)
    captions = defaultdict(list)
    annotations = listed(content.get("annotations"), f"{file}: 'annotations'")
    for record in checked(annotations, file, image_id=whole_number, caption=text):
        captions[record["image_id"]].append(record["caption"])
    examples = []
    images = listed(content.get("images"), f"{file}: 'images'")
    for record in checked(images, file, id=whole_number, file_name=text):
        if record["id"] not in captions:
            raise ValueError(f"{file}: picture {record['id']} has no caption")
        picture = Path(find_picture(record["file_name"], *folders))
        examples.append(Example(str(record["id"]), "", (picture,), captions[record["id"]]))
    return examples


def score(examples: Sequence[Example], answers: Sequence[str], networks: Networks) -> dict[str, float]:
    """See `CaptionScores`."""
    truths = [example.truth for example in examples]
    return {"num_examples": len(examples)} | CaptionScores().compute(predictions=list(answers), references=truths)


def submission(examples: Sequence[Example], answers: Sequence[str]) -> dict[str, str]:
    """The file for the COCO caption evaluation and its server: [{"image_id": number, "caption": text}, ...]."""
    rows = [
        {"image_id": int(example.key), "caption": answer} for example, answer in zip(examples, answers, strict=True)
    ]
    return {"captions_results.json": json.dumps(rows, ensure_ascii=False)}


_benchmark = partial(
    Benchmark,
    answer="text",
    definition="Chen et al. 2015: CIDEr-D (Vedantam et al. 2015), BLEU, ROUGE-L by pycocoevalcap, of words that are "
    "split without the Java program of the original",
    score=score,
    rows=(
        Row("pictures", "num_examples", ".0f"),
        Row("CIDEr-D", "cider_d"),
        *(Row(f"BLEU-{n}", f"bleu_{n}") for n in range(1, 5)),
        Row("ROUGE-L", "rouge_l"),
    ),
    submission=submission,
    answer_form=REQUEST,
    max_new_tokens=64,
)
COCO_CAPTIONS = _benchmark(
    name="coco-captions",
    splits=(*KARPATHY, *COCO_YEARS),
    files="dataset_coco.json (Karpathy) and the pictures in val2014; or annotations/captions_val2017.json and val2017",
    read=read_coco,
)
FLICKR30K = _benchmark(
    name="flickr30k",
    splits=KARPATHY,
    files=f"dataset_flickr30k.json (Karpathy) and the pictures in {' or '.join(FLICKR_FOLDERS)}",
    read=read_flickr,
)
