"""A few rows of data sets to train on, in the format of their release: keys, types, names of pictures."""

from pathlib import Path

from PIL import Image

from tests.benchmark_releases import aokvqa_records, gqa_questions, vqa_answers

PICTURES = (
    "COCO_train2014_000000000009.jpg", "COCO_train2014_000000000025.jpg", "000000299207.jpg", "2405722.jpg",
    "n161313.jpg", "VG_100K/2.jpg", "VG_100K_2/1.jpg", "sa_000000/sa_1.jpg",
)  # fmt: skip
SIZE = (20, 10)  # width, height


VQA_QUESTIONS = {
    "info": {"description": "This is v2.0 of the VQA dataset.", "year": 2017},
    "task_type": "Open-Ended",
    "data_type": "mscoco",
    "data_subtype": "train2014",
    "license": {"name": "Creative Commons Attribution 4.0 International License"},
    "questions": [
        {"image_id": 9, "question": "How many cookies can be seen?", "question_id": 9002},
        {"image_id": 25, "question": "Is it day?", "question_id": 25000},
        {"image_id": 9, "question": "What color are the dishes?", "question_id": 9000},
    ],
}
VQAV2_ANNOTATIONS = {
    "info": {},
    "license": {},
    "data_type": "mscoco",
    "data_subtype": "train2014",
    "annotations": [
        {
            "question_type": kind,
            "multiple_choice_answer": answer,
            "answers": vqa_answers([other] * 3 + [answer] * 7),
            "image_id": key // 1000,
            "answer_type": answer_type,
            "question_id": key,
        }
        for key, kind, answer_type, answer, other in (
            (9000, "what color are the", "other", "pink and yellow", "pink"),
            (9002, "how many", "number", "2", "3"),
            (25000, "is it", "yes/no", "yes", "no"),
        )
    ],
}
OKVQA_ANNOTATIONS = {
    "info": {},
    "license": {},
    "data_type": "mscoco",
    "data_subtype": "train2014",
    "annotations": [
        {
            "image_id": key // 1000,
            "answer_type": "other",
            "question_type": kind,
            "question_id": key,
            "answers": [one | {"raw_answer": f"{one['answer']}s"} for one in vqa_answers(answers)],
            "confidence": 3,
        }
        for key, kind, answers in (
            (9000, "seven", ["", "", "", "pink", "yellow", "yellow", "pink"]),
            (9002, "other", ["two", "three", "three"]),
            (25000, "eight", ["yes", "yes"]),
        )
    ],
}
AOKVQA = aokvqa_records(
    "train",
    299207,
    [
        ("22MexNkBPpdZGX6sxbxVBH", "What is in his mouth?", ["", "stick", "food", "cigar", "food", "cigar"], False),
        ("22jbM6gDxdaMaunuzgrsBB", "Whom does he await?", ["a cab", "her"], True),
    ],
)
GQA = gqa_questions(
    [
        ("07333408", "What is on the white wall?", "2405722", "pipe", "query", "rel"),
        ("07333405", "Is that pipe red?", "2405722", "no", "verify", "attr"),
        ("201307251", "Is it overcast?", "n161313", "no", "verify", "global"),
    ]
)
VG_PICTURES = [
    {
        "image_id": number,
        "url": f"https://cs.stanford.edu/people/rak248/{path}",
        "width": 800,
        "height": 600,
        "coco_id": None,
        "flickr_id": None,
    }
    for number, path in ((1, "VG_100K_2/1.jpg"), (2, "VG_100K/2.jpg"))
]
VG_REGIONS = [
    {
        "id": number,
        "regions": [
            {
                "region_id": 1000 * number + place, "image_id": number, "phrase": phrase,
                "x": x, "y": y, "width": width, "height": height,
            }
            for place, (x, y, width, height, phrase) in enumerate(regions)
        ],
    }
    for number, regions in (
        (1, [(421, 57, 82, 139, "the clock is green \n in colour"), (0, -3, 800, 423, "a street in a city")]),
        (2, [(400, 150, 500, 300, "a desk")]),
    )
]  # fmt: skip
VG_QUESTIONS = [
    {
        "id": 1,
        "qas": [
            {
                "qa_id": 986768 + place, "image_id": 1, "question": question, "answer": answer,
                "a_objects": [], "q_objects": [],
            }
            for place, (question, answer) in enumerate(
                (("What color is the clock?", "Green."), ("Where is the man?", "On the sidewalk."))
            )
        ],
    },
    {"id": 2, "qas": []},
]  # fmt: skip
SA_1B = {
    "image": {"image_id": 1, "width": SIZE[0], "height": SIZE[1], "file_name": "sa_1.jpg"},
    "annotations": [
        {
            "id": number,
            "segmentation": {"size": [SIZE[1], SIZE[0]], "counts": counts},
            "bbox": box,
            "area": area,
            "predicted_iou": 0.98,
            "stability_score": 0.96,
            "crop_box": [0.0, 0.0, *SIZE],
            "point_coords": [point],
        }
        for number, counts, box, area, point in (
            (7, "0:n5", [0.0, 0.0, 0.0, 9.0], 10, [0.5, 4.0]),  # the first column
            (8, [20, 40, 140], [2.0, 0.0, 3.0, 9.0], 40, [3.125, 5.0]),  # the four columns from the third on
            (9, [199, 1], [19.0, 9.0, 0.0, 0.0], 1, [19.0, 9.0]),
        )
    ],
}


def write_released_pictures(folder: Path) -> Path:
    """All of them, each of its own shade of grey."""
    for number, name in enumerate(PICTURES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE, (30 * number,) * 3).save(folder / name)
    return folder
