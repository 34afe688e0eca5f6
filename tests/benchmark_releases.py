"""A few rows of each benchmark of understanding, in the format of its release: names of files and folders, keys, types.

Each function fills a folder and returns it; pictures are random and small, whatever the rows say of them.
"""

import csv
import json
from pathlib import Path

from tests.setokim_testing import pictures

PERCEPTION = ["existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR"]
COGNITION = ["commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"]
IN_FOLDERS = ["artwork", "celebrity", "landmark", "posters", "scene"]  # of MME: pictures and texts apart


def write_vqav2(folder: Path) -> Path:
    rows = [
        (42000, "What is in front of the batter?", "other", ["net"] * 4 + ["fence"] * 6),
        (42001, "How many dogs are there?", "number", ["2"] * 2 + ["3"] * 8),
        (73000, "Is it raining?", "yes/no", ["yes"] * 10),
    ]
    write_vqa(folder, "v2_OpenEnded_mscoco_val2014_questions.json", "v2_mscoco_val2014_annotations.json", rows)
    questions = [{"image_id": 9, "question": "What is it?", "question_id": 9000}]
    write_json(folder / "v2_OpenEnded_mscoco_test-dev2015_questions.json", {"questions": questions})
    write_pictures(folder / "test2015", "COCO_test2015_000000000009.jpg")
    return folder


def write_okvqa(folder: Path) -> Path:
    rows = [(42000, "What sport can you use this for?", "other", ["race"] * 4 + ["motocross"] * 6)]
    write_vqa(folder, "OpenEnded_mscoco_val2014_questions.json", "mscoco_val2014_annotations.json", rows)
    return folder


def write_vqa(folder: Path, questions: str, annotations: str, rows: list[tuple[int, str, str, list[str]]]) -> None:
    """Rows of question id, question, type of its answers, and the ten answers."""
    write_json(
        folder / questions,
        {
            "info": {},
            "task_type": "Open-Ended",
            "data_type": "mscoco",
            "license": {},
            "data_subtype": "val2014",
            "questions": [{"image_id": key // 1000, "question": text, "question_id": key} for key, text, *_ in rows],
        },
    )
    found = [
        {
            "question_type": "what is",
            "multiple_choice_answer": max(answers, key=answers.count),
            "answers": vqa_answers(answers),
            "image_id": key // 1000,
            "answer_type": kind,
            "question_id": key,
        }
        for key, _, kind, answers in rows
    ]
    write_json(folder / annotations, {"info": {}, "license": {}, "annotations": found})
    numbers = sorted({key // 1000 for key, *_ in rows})
    write_pictures(folder / "val2014", *(f"COCO_val2014_{number:012}.jpg" for number in numbers))


def vqa_answers(answers: list[str]) -> list[dict]:
    return [
        {"answer": answer, "answer_confidence": "yes", "answer_id": place}
        for place, answer in enumerate(answers, start=1)
    ]


def write_aokvqa(folder: Path) -> Path:
    rows = [
        ("22jbM6gDxdaMaunuzgrsBB", "What is in his mouth?", ["cigarette"] * 8 + ["pipe"] * 2, False),
        ("2Aq5RiEn7eyfWjEbpuYy3z", "What is he awaiting?", ["cab"] * 10, False),
        ("22MexNkBPpdZGX6sxbxVBH", "What is the number?", ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10"], True),
    ]
    write_json(folder / "aokvqa_v1p0_val.json", aokvqa_records("val", 461751, rows))
    write_pictures(folder / "val2017", "000000461751.jpg")
    return folder


def aokvqa_records(split: str, image: int, rows: list[tuple[str, str, list[str], bool]]) -> list[dict]:
    """Rows of question id, question, free answers, and whether these are difficult, about one picture."""
    return [
        {
            "split": split,
            "image_id": image,
            "question_id": key,
            "question": question,
            "choices": ["toothpick", "food", "cigarette", "cab"],
            "correct_choice_idx": 2,
            "direct_answers": answers,
            "difficult_direct_answer": difficult,
            "rationales": ["It can be seen."] * 3,
        }
        for key, question, answers, difficult in rows
    ]


def write_vizwiz(folder: Path) -> Path:
    rows = [
        ("VizWiz_val_00000000.jpg", "Ok. There is another picture I hope it is better?", "unanswerable"),
        ("VizWiz_val_00000001.jpg", "What is the title of this book?", "dog years"),
    ]
    records = [
        {
            "image": name,
            "question": question,
            "answers": [{"answer_confidence": "yes", "answer": answer}] * 10,
            "answer_type": "unanswerable" if answer == "unanswerable" else "other",
            "answerable": int(answer != "unanswerable"),
        }
        for name, question, answer in rows
    ]
    write_json(folder / "val.json", records)
    test = [{"image": "VizWiz_test_00000000.jpg", "question": "What is this?"}]
    write_json(folder / "test.json", test)
    write_pictures(folder / "val", *(name for name, *_ in rows))
    write_pictures(folder / "test", "VizWiz_test_00000000.jpg")
    return folder


def write_gqa(folder: Path) -> Path:
    rows = [
        ("201307251", "Is it overcast?", "n161313", "no", "verify", "global"),
        ("201640614", "What color is the shirt?", "n161313", "red", "query", "attr"),
        ("202225914", "Is the car left of the tree?", "n161313", "yes", "verify", "rel"),
    ]
    write_json(folder / "questions1.2" / "testdev_balanced_questions.json", gqa_questions(rows))
    asked = {"1": {"question": "Is it overcast?", "imageId": "n161313", "isBalanced": True}}
    write_json(folder / "questions1.2" / "submission_all_questions.json", asked)
    write_pictures(folder / "images", "n161313.jpg")
    return folder


def gqa_questions(rows: list[tuple[str, str, str, str, str, str]]) -> dict[str, dict]:
    """Rows of question id, question, picture, answer, and the structural and the semantic type."""
    return {
        key: {
            "semantic": [{"operation": "select", "dependencies": [], "argument": "scene"}],
            "entailed": [],
            "equivalent": [key],
            "question": question,
            "imageId": image,
            "isBalanced": True,
            "groups": {"global": None, "local": "13-weather_overcast"},
            "answer": answer,
            "semanticStr": "select: scene->verify weather: overcast [0]",
            "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
            "types": {"detailed": "weatherVerify", "semantic": semantic, "structural": structural},
            "fullAnswer": answer,
        }
        for key, question, image, answer, structural, semantic in rows
    }


def write_pope(folder: Path) -> Path:
    picture = "COCO_val2014_000000310196.jpg"
    for way in ("random", "popular", "adversarial"):
        lines = [
            {"question_id": number, "image": picture, "text": f"Is there a {name} in the image?", "label": label}
            for number, (name, label) in enumerate(
                [("snowboard", "yes"), ("backpack", "no"), ("person", "yes"), ("car", "no")], start=1
            )
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"coco_pope_{way}.json").write_text(text)
    write_pictures(folder / "val2014", picture)
    return folder


def write_mme(folder: Path) -> Path:
    for category in (*PERCEPTION, *COGNITION):
        apart = category in IN_FOLDERS
        inside = folder / "MME_Benchmark_release_version" / category
        name = "000000006040.jpg" if category in PERCEPTION else "0001.png"
        write_pictures(inside / "images" if apart else inside, name)
        texts = inside / "questions_answers_YN" if apart else inside
        texts.mkdir(exist_ok=True)
        (texts / name).with_suffix(".txt").write_text(
            "Is there a refrigerator in this image? Please answer yes or no.\tYes\n"
            "Is there a donut in this image? Please answer yes or no.\tNo\n"
        )
    return folder


def write_mm_vet(folder: Path) -> Path:
    questions = {
        "v1_0": {
            "imagename": "v1_0.png",
            "imagesource": "https://example.org/0",
            "question": "What is x in the equation?",
            "answer": "-1<AND>-5",
            "capability": ["ocr", "math"],
        },
        "v1_1": {
            "imagename": "v1_1.jpg",
            "imagesource": "https://example.org/1",
            "question": "Which car is on the parking spot 33?",
            "answer": "no<OR>empty",
            "capability": ["rec", "ocr", "spat"],
        },
    }
    write_json(folder / "mm-vet.json", questions)
    write_pictures(folder / "images", "v1_0.png", "v1_1.jpg")
    return folder


def write_iconqa(folder: Path) -> Path:
    tasks = {
        "choose_txt": {"12": ("Is it more than 3?", ["yes", "no"], 1), "13": ("Which?", ["red", "blue", "owl"], 0)},
        "choose_img": {"21": ("Which comes next?", ["choice_0.png", "choice_1.png"], 1)},
        "fill_in_blank": {"31": ("Count the dots. How many are there?", None, "4")},
    }
    problems, splits = {}, {}
    for task, rows in tasks.items():
        splits[f"{task}_test"] = list(rows)
        for key, (question, choices, answer) in rows.items():
            problems[key] = {
                "question": question,
                "ques_type": task,
                "answer": answer,
                "grade": "grade1",
                "split": "test",
            }
            problems[key] |= {} if choices is None else {"choices": choices}
            names = choices if task == "choose_img" else []
            write_pictures(folder / "iconqa_data" / "iconqa" / "test" / task / key, "image.png", *names)
    write_json(folder / "iconqa_data" / "problems.json", problems)
    write_json(folder / "iconqa_data" / "pid_splits.json", splits)
    skills = {"12": ["counting", "comparing"], "13": ["counting"], "21": ["pattern"], "31": ["counting"]}
    write_json(folder / "iconqa_data" / "pid2skills.json", skills)
    return folder


def write_coco_captions(folder: Path) -> Path:
    """Karpathy's file, and COCO's own of val2017."""
    names = {391895: "COCO_val2014_000000391895.jpg", 522418: "COCO_val2014_000000522418.jpg"}
    captions = {391895: ["A man rides a bike.", "A man on a bike."], 522418: ["A woman cuts a cake."]}
    images = [
        {
            "filepath": "val2014",
            "sentids": [number],
            "filename": name,
            "imgid": place,
            "split": "test" if place else "val",
            "sentences": [
                {"tokens": text.split(), "raw": text, "imgid": place, "sentid": 1} for text in captions[number]
            ],
            "cocoid": number,
        }
        for place, (number, name) in enumerate(names.items())
    ]
    write_json(folder / "dataset_coco.json", {"images": images, "dataset": "coco"})
    write_pictures(folder / "val2014", *names.values())
    content = {
        "info": {},
        "licenses": [],
        "images": [{"id": number, "file_name": f"{number:012}.jpg", "height": 24, "width": 24} for number in captions],
        "annotations": [
            {"image_id": number, "id": place, "caption": text}
            for number, texts in captions.items()
            for place, text in enumerate(texts)
        ],
    }
    write_json(folder / "annotations" / "captions_val2017.json", content)
    write_pictures(folder / "val2017", *(f"{number:012}.jpg" for number in captions))
    return folder


def write_flickr30k(folder: Path) -> Path:
    images = [
        {
            "sentids": [0, 1],
            "imgid": 0,
            "sentences": [
                {"tokens": ["two", "men"], "raw": "Two men.", "imgid": 0, "sentid": 0},
                {"tokens": ["men", "outside"], "raw": "Men outside.", "imgid": 0, "sentid": 1},
            ],
            "split": "test",
            "filename": "1000092795.jpg",
        }
    ]
    write_json(folder / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})
    write_pictures(folder / "flickr30k-images", "1000092795.jpg")
    return folder


def write_mmlu(folder: Path) -> Path:
    for subject in ("astronomy", "high_school_physics"):
        shown = [(f"{number} + 1 = ?", "1", "2, or more", "3", "4", "B") for number in range(6)]
        asked = [("2 + 2 = ?", "1", "2", "3", "4", "D"), ("1 + 1 = ?", "1", "2", "3", "4", "B")]
        for split, rows in {"dev": shown, "test": asked}.items():
            (folder / "data" / split).mkdir(parents=True, exist_ok=True)
            with (folder / "data" / split / f"{subject}_{split}.csv").open("w", newline="") as file:
                csv.writer(file).writerows(rows)
    return folder


def write_easy_vqa(folder: Path) -> Path:
    rows = [["what is the red shape?", "triangle", 0], ["what color is it?", "red", 0], ["is it blue?", "no", 0]]
    write_json(folder / "test" / "questions.json", rows)
    write_pictures(folder / "test" / "images", "0.png")
    return folder


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_pictures(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in zip(names, pictures(len(names)), strict=True):
        picture.save(folder / name)
