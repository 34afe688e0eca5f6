"""EmojiScenes in the files in which public benchmarks are released:

python -m training.data.export_emoji_scenes vqav2 --output data/emoji-vqav2 --num_scenes 500

What is asked of the scenes is what `training.evaluation.evaluate_setokim` asks of the same, so that the figures of a
benchmark's own reader and scorer can be held against its.

Every file has the place, the name, the keys and the types that it has in the release, in the part "val" (of MagicBrush
"test"), whatever the split of the scenes: it is the one whose answers are public. Scene i is the picture of id i + 1.
Pictures are PNG, also those whose names end in .jpg: what reads pictures goes by their content, and no pixel changes.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .composition import mask_boxes
from .emoji_scenes import language
from .emoji_scenes.dataset import EmojiScenes
from .emoji_scenes.scenes import SceneConfig
from .emoji_scenes.sprites import STYLES, concept_names
from .emoji_scenes.tasks import REFERRING_REQUESTS, presence_question
from .entries.segmentations import run_lengths

SPLITS = ("test", "validation")  # training scenes are asked about in many wordings
_EXPRESSION = re.compile("(?:" + "|".join(request.replace(" {}.", "") for request in REFERRING_REQUESTS) + r") (.+)\.")


def export(
    name: str,
    output: str | Path,
    num_scenes: int = 500,
    split: str = "test",
    config: SceneConfig | None = None,
    seed: int = 0,
) -> Path:
    """Writes scenes in the files of a benchmark.

    Args:
        name: one of `FORMATS`.
        output: a new or an empty folder, to write to.
        num_scenes, split, seed: of the scenes; the split is one of `SPLITS`.
        config: what they look like; default: 224 pixels, else as `SceneConfig` has it.

    Raises:
        ValueError: an unknown benchmark or split, a number out of range, or a folder that holds something.
    """
    output = Path(output)
    if name not in FORMATS:
        raise ValueError(f"unknown benchmark {name!r}; choose one of {', '.join(FORMATS)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} holds something: give a new or an empty folder")
    scenes = EmojiScenes(split, num_scenes, config or SceneConfig(image_size=224), seed=seed)
    FORMATS[name](scenes, output)
    return output


def _vqav2(scenes: EmojiScenes, output: Path) -> None:
    """One question about each scene, that of task "question", whose types are VQAv2's question types; all ten
    annotators give the true answer."""
    questions, annotations = [], []
    for index, row in _rows(scenes, "question"):
        asked, answer = (message["content"][-1]["text"] for message in row["messages"])
        _save(row["images"][0], output / "val2014" / _file_name(index))
        ids = {"image_id": _image_id(index), "question_id": 1000 * _image_id(index)}
        questions.append({**ids, "question": asked})
        annotations.append(
            {
                **ids,
                "question_type": row["question_type"],
                "answer_type": "number" if answer.isdigit() else "yes/no" if answer in ("yes", "no") else "other",
                "multiple_choice_answer": answer,
                "answers": [
                    {"answer": answer, "answer_confidence": "yes", "answer_id": annotator} for annotator in range(1, 11)
                ],
            }
        )
    head = {
        "info": _info(scenes), "license": {"name": "", "url": ""}, "data_type": "mscoco", "data_subtype": "val2014"
    }  # fmt: skip
    questions = head | {"task_type": "Open-Ended", "questions": questions}
    _write_json(output / "v2_OpenEnded_mscoco_val2014_questions.json", questions)
    _write_json(output / "v2_mscoco_val2014_annotations.json", head | {"annotations": annotations})


def _coco_captions(scenes: EmojiScenes, output: Path) -> None:
    """Two captions of each scene: its objects as they were laid, and from left to right."""
    images, annotations = [], []
    for index in range(len(scenes)):
        scene = scenes.scene(index)
        images.append(_image(index, scenes))
        _save(Image.fromarray(scene.image), output / "val2014" / _file_name(index))
        for caption in (language.caption(scene), language.ordered_caption(scene)):
            annotations.append(
                {"image_id": _image_id(index), "id": len(annotations) + 1, "caption": language.sentence(caption)}
            )
    captions = {"info": _info(scenes), "licenses": [], "images": images, "annotations": annotations}
    _write_json(output / "annotations" / "captions_val2014.json", captions)


def _pope(scenes: EmojiScenes, output: Path) -> None:
    """Two questions about each scene, for an object that is there and one that is not. In "random" both are those of
    `evaluate_setokim`; else the second is, of the absent objects, the one that most scenes have ("popular"), or that is
    most often beside those that are there ("adversarial"); counts are over the scenes written."""
    vocabulary = concept_names(scenes.config.vocabulary)
    names, present, absent = [], [], {"random": [], "popular": [], "adversarial": []}
    for index in range(len(scenes)):
        scene = scenes.scene(index)
        there, not_there = scenes.presence_pair(index, scene)
        names.append(set(scene.names))
        present.append(there)
        absent["random"].append(not_there)
        _save(Image.fromarray(scene.image), output / "val2014" / _file_name(index))
    shown = Counter(name for there in names for name in there)
    beside = {name: Counter(other for there in names if name in there for other in there) for name in vocabulary}
    for there in names:
        candidates = [name for name in vocabulary if name not in there]
        absent["popular"].append(max(candidates, key=lambda name: shown[name]))
        absent["adversarial"].append(max(candidates, key=lambda name: sum(beside[name][other] for other in there)))
    for kind, of_kind in absent.items():
        asked = [pair for index in range(len(scenes)) for pair in ((index, present[index]), (index, of_kind[index]))]
        lines = [
            {
                "question_id": number + 1,
                "image": _file_name(index),
                "text": presence_question(name),
                "label": "yes" if name in names[index] else "no",
            }
            for number, (index, name) in enumerate(asked)
        ]
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (output / f"coco_pope_{kind}.json").write_text(text, encoding="utf-8")


def _refcoco(scenes: EmojiScenes, output: Path) -> None:
    """One expression about each scene, that of task "referring". Objects are annotations of their own; all of one name
    together, where an expression means these, are another, a crowd. Masks are run lengths, which are exact. The release
    has the expressions as a pickle of the same content, which can run code when it is read: here they are JSON."""
    categories = {name: number for number, name in enumerate(concept_names(scenes.config.vocabulary), start=1)}
    images, annotations, refs = [], [], []
    for index, row in _rows(scenes, "referring"):
        scene, meant = scenes.scene(index), np.asarray(row["masks"][0]) > 0
        image = _image(index, scenes, "train2014")
        images.append(image)
        _save(row["images"][0], output / "images/mscoco/images/train2014" / image["file_name"])
        masks, names = list(scene.masks), list(scene.names)
        target = next((number for number, mask in enumerate(masks) if np.array_equal(mask, meant)), len(masks))
        if target == len(scene.masks):
            masks.append(meant)
            names.append(row["concepts"][0])
        first = len(annotations) + 1
        for number, (mask, box, name) in enumerate(zip(masks, mask_boxes(np.stack(masks)), names, strict=True)):
            x1, y1, x2, y2 = box.tolist()
            annotations.append(
                {
                    "id": first + number,
                    "image_id": image["id"],
                    "category_id": categories[name],
                    "segmentation": run_lengths(mask),
                    "area": float(mask.sum()),
                    "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
                    "iscrowd": int(number == len(scene.masks)),
                }
            )
        expression = _EXPRESSION.fullmatch(row["messages"][0]["content"][-1]["text"])[1]
        sentence = {"sent_id": index, "sent": expression, "raw": expression, "tokens": expression.split()}
        refs.append(
            {
                "ref_id": index,
                "ann_id": first + target,
                "image_id": image["id"],
                "category_id": categories[names[target]],
                "file_name": f"{Path(image['file_name']).stem}_{first + target}.jpg",
                "split": "val",
                "sent_ids": [index],
                "sentences": [sentence],
            }
        )
    instances = {
        "info": _info(scenes),
        "licenses": [],
        "images": images,
        "categories": [
            {"id": number, "name": language.noun(name), "supercategory": "object"}
            for name, number in categories.items()
        ],
        "annotations": annotations,
    }
    _write_json(output / "refcoco" / "instances.json", instances)
    _write_json(output / "refcoco" / "refs(unc).json", refs)


def _magicbrush(scenes: EmojiScenes, output: Path) -> None:
    """One session of one turn about each scene, that of task "edit". The mask is the input, white and transparent where
    the output differs."""
    turns = []
    for index, row in _rows(scenes, "edit"):
        name = str(_image_id(index))
        files = {"input": f"{name}-input.png", "mask": f"{name}-mask1.png", "output": f"{name}-output1.png"}
        turns.append(files | {"instruction": row["messages"][0]["content"][-1]["text"]})
        before, after = map(np.asarray, row["images"])
        changed = (before != after).any(-1, keepdims=True)
        masked = np.where(changed, np.uint8([255, 255, 255, 0]), np.insert(before, 3, 255, axis=-1))
        for file, pixels in zip(files.values(), (before, masked, after), strict=True):
            _save(Image.fromarray(pixels), output / "test" / "images" / name / file)
    _write_json(
        output / "test" / "edit_sessions.json", {turn["input"].removesuffix("-input.png"): [turn] for turn in turns}
    )
    _write_json(output / "test" / "edit_turns.json", turns)


FORMATS: dict[str, Callable[[EmojiScenes, Path], None]] = {
    "vqav2": _vqav2,
    "coco-captions": _coco_captions,
    "pope": _pope,
    "refcoco": _refcoco,
    "magicbrush": _magicbrush,
}


def _rows(scenes: EmojiScenes, task: str) -> Iterator[tuple[int, dict]]:
    return enumerate(EmojiScenes(scenes.split, scenes.num_scenes, scenes.config, tasks=(task,), seed=scenes.seed))


def _image_id(index: int) -> int:
    return index + 1


def _file_name(index: int, part: str = "val2014") -> str:
    return f"COCO_{part}_{_image_id(index):012d}.jpg"


def _image(index: int, scenes: EmojiScenes, part: str = "val2014") -> dict:
    side = scenes.config.image_size
    return {"id": _image_id(index), "file_name": _file_name(index, part), "width": side, "height": side}


def _info(scenes: EmojiScenes) -> dict:
    return {"description": f"{len(scenes)} EmojiScenes, split {scenes.split}, seed {scenes.seed}", "version": "1.0"}


def _save(picture: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, format="PNG")


def _write_json(file: Path, content: dict | list) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=tuple(FORMATS), help="the benchmark in whose files they are written")
    parser.add_argument("--output", required=True, help="a new or an empty folder")
    parser.add_argument("--num_scenes", type=int, default=500)
    parser.add_argument("--split", choices=SPLITS, default=SPLITS[0])
    parser.add_argument("--image_size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--vocabulary", default=SceneConfig.vocabulary, help="objects: tiny (60), full (144) or large")
    parser.add_argument("--styles", nargs="+", choices=STYLES, default=SceneConfig.styles, help="how they are drawn")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        config = SceneConfig(image_size=given.image_size, vocabulary=given.vocabulary, styles=tuple(given.styles))
        print(export(given.name, given.output, given.num_scenes, given.split, config, given.seed))
    except (ValueError, OSError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
