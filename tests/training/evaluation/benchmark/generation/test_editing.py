"""MagicBrush, the Image Editing Request data (EVR) and MA5k-Req, as released."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops

from tests.setokim_testing import pictures
from training.evaluation.benchmark.answering import Options, load_answerer
from training.evaluation.benchmark.benchmark import Example, Networks
from training.evaluation.benchmark.generation.editing import EVR, MA5K, MAGIC_BRUSH, MAGIC_BRUSH_MULTI_TURN
from training.evaluation.benchmark.generation.networks import Clip, PictureEncoder

SIZE = (20, 16)  # width, height
SESSIONS = {
    "139306": [
        {
            "input": "139306-input.png",
            "mask": "139306-mask1.png",
            "output": "139306-output1.png",
            "instruction": "Put a cat on the seat.",
        },
        {
            "input": "139306-output1.png",
            "mask": "139306-mask2.png",
            "output": "139306-output2.png",
            "instruction": "have there be a stop sign",
        },
    ],
    "30": [{"input": "30-input.png", "mask": "30-mask1.png", "output": "30-output1.png", "instruction": "Add rain."}],
}
COLOURS = {"139306-input": 0, "139306-output1": 51, "139306-output2": 102, "30-input": 255, "30-output1": 204}


def grey(level: int, size: tuple[int, int] = SIZE) -> Image.Image:
    return Image.new("RGB", size, (level,) * 3)


def write_magic_brush(root: Path) -> None:
    for name, level in COLOURS.items():
        folder = root / "test/images" / name.split("-")[0]
        folder.mkdir(parents=True, exist_ok=True)
        grey(level).save(folder / f"{name}.png")
    turns = [turn for session in SESSIONS.values() for turn in session]
    captions = {"139306": {"139306-output1.png": "a cat", "139306-output2.png": "a stop sign"}, "30": {}}
    for name, content in (("edit_turns", turns), ("edit_sessions", SESSIONS), ("local_descriptions", captions)):
        (root / "test" / f"{name}.json").write_text(json.dumps(content))


def write_evr(root: Path) -> None:
    (root / "images").mkdir()
    pairs = [
        {
            "img0": "Reddit.com_5fdtr1_5fdtr1.jpg",
            "img1": "Reddit.com_5fdtr1_dajgq1u.jpg",
            "sents": ["make color brighter", "Increase the brightness of the image", "add the effect "],
            "uid": "Reddit_1012",
        }
    ]
    (root / "test.json").write_text(json.dumps(pairs))
    grey(0).save(root / "images" / pairs[0]["img0"])
    grey(51, (32, 32)).save(root / "images" / pairs[0]["img1"])


def write_ma5k(root: Path) -> None:
    (root / "images").mkdir()
    (root / "annotations").mkdir()
    pairs = [
        {
            "input": "3458_O.jpg",
            "output": f"3458_{expert}.jpg",
            "request": "Image needsTo be soften and sharpened ",
            "request_idx": [1, 5, 3, 55, 290, 6, 344, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        }
        for expert in "BAB"
    ]
    (root / "annotations/test_sess_1.json").write_text(json.dumps(pairs))
    for name in "OAB":
        grey(100).save(root / "images" / f"3458_{name}.jpg")


def test_every_turn_of_magic_brush_starts_from_the_truth(tmp_path):
    write_magic_brush(tmp_path)
    examples = MAGIC_BRUSH.read(tmp_path, "test")
    assert [(e.key, e.request, e.images[0].name, e.truth[0].name, e.truth[1], e.then) for e in examples] == [
        ("139306-output1", "Put a cat on the seat.", "139306-input.png", "139306-output1.png", "a cat", ()),
        ("139306-output2", "have there be a stop sign", "139306-output1.png", "139306-output2.png", "a stop sign", ()),
        ("30-output1", "Add rain.", "30-input.png", "30-output1.png", None, ()),
    ]


def test_a_session_of_magic_brush_goes_from_its_first_to_its_last_picture(tmp_path):
    write_magic_brush(tmp_path)
    first, second = MAGIC_BRUSH_MULTI_TURN.read(tmp_path, "test")
    assert (first.key, first.request, first.then) == (
        "139306-output2",
        "Put a cat on the seat.",
        ("have there be a stop sign",),
    )
    assert (first.images[0].name, first.truth[0].name, first.truth[1]) == (
        "139306-input.png",
        "139306-output2.png",
        "a stop sign",
    )
    assert (second.key, second.request, second.then) == ("30-output1", "Add rain.", ())


def test_every_request_of_evr_counts(tmp_path):
    write_evr(tmp_path)
    examples = EVR.read(tmp_path, "test")
    assert [(example.key, example.request) for example in examples] == [
        ("Reddit_1012-0", "make color brighter"),
        ("Reddit_1012-1", "Increase the brightness of the image"),
        ("Reddit_1012-2", "add the effect"),
    ]
    assert {example.images[0].name for example in examples} == {"Reddit.com_5fdtr1_5fdtr1.jpg"}
    # the answer is brought to the size of the true result, and so is the picture before
    found = EVR.score(examples, [grey(51)] * 3, Networks())
    assert found["l1"] == pytest.approx(0) and found["unchanged_l1"] == pytest.approx(51 / 255)


def test_ma5k(tmp_path):
    write_ma5k(tmp_path)
    examples = MA5K.read(tmp_path, "test")
    assert [example.key for example in examples] == ["0-3458_B", "1-3458_A", "2-3458_B"]
    assert {example.request for example in examples} == {"Image needsTo be soften and sharpened"}
    assert examples[1].images[0].name == "3458_O.jpg" and examples[1].truth[0].name == "3458_A.jpg"


def test_perfect_edits(tmp_path, encoder_folder, clip_folder, lpips_file):
    write_magic_brush(tmp_path)
    examples = MAGIC_BRUSH.read(tmp_path, "test")
    networks = Networks(encoder_folder, clip_folder, lpips_file)
    found = MAGIC_BRUSH.score(examples, [Image.open(example.truth[0]) for example in examples], networks)
    assert (found["num_examples"], found["l1"], found["l2"], found["lpips_vgg"]) == (3, 0, 0, 0)
    assert [found["clip_image_similarity"], found["encoder_image_similarity"]] == pytest.approx([1, 1])
    assert {row.key for row in MAGIC_BRUSH.rows} <= found.keys()


def test_wrong_edits_by_hand(tmp_path, encoder_folder, clip_folder):
    write_magic_brush(tmp_path)
    examples = MAGIC_BRUSH.read(tmp_path, "test")
    answers = [grey(51), grey(0), grey(255, (10, 8))]  # right, 102 off, 51 off
    networks = Networks(encoder_folder, clip_folder)
    found = MAGIC_BRUSH.score(examples, answers, networks)
    assert found["l1"] == pytest.approx((0 + 102 + 51) / 255 / 3)
    assert found["l2"] == pytest.approx((0.4**2 + 0.2**2) / 3)
    assert found["unchanged_l1"] == pytest.approx(0.2) and found["unchanged_l2"] == pytest.approx(0.04)
    assert "lpips_vgg" not in found
    clip, cosine = Clip.from_pretrained(clip_folder), torch.nn.functional.cosine_similarity
    truths = [grey(51), grey(102), grey(204)]
    pairs = [
        (clip, "clip_image_similarity"),
        (PictureEncoder.from_pretrained(encoder_folder), "encoder_image_similarity"),
    ]
    for encoder, key in pairs:
        assert found[key] == pytest.approx(
            cosine(encoder.encode(answers), encoder.encode(truths)).mean().item(), abs=1e-5
        )
    captions = clip.encode_texts(["a cat", "a stop sign"])  # the third has none
    assert found["clip_text_similarity"] == pytest.approx(
        cosine(clip.encode(answers[:2]), captions).mean().item(), abs=1e-5
    )


@pytest.mark.parametrize(
    "benchmark, write, missing",
    [
        (MAGIC_BRUSH, write_magic_brush, "test/edit_turns.json"),
        (MAGIC_BRUSH_MULTI_TURN, write_magic_brush, "test/edit_sessions.json"),
        (EVR, write_evr, "test.json"),
        (EVR, write_evr, "images"),
        (MA5K, write_ma5k, "annotations/test_sess_1.json"),
        (MA5K, write_ma5k, "images"),
    ],
)
def test_a_missing_file_is_named(tmp_path, benchmark, write, missing):
    write(tmp_path)
    (tmp_path / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"There is no {missing} in"):
        benchmark.read(tmp_path, "test")


def test_a_missing_picture_or_field_is_named(tmp_path):
    write_magic_brush(tmp_path)
    (tmp_path / "test/images/30/30-output1.png").unlink()
    with pytest.raises(ValueError, match="30/30-output1.png' does not exist"):
        MAGIC_BRUSH.read(tmp_path, "test")
    (tmp_path / "test/edit_turns.json").write_text('[{"input": "30-input.png", "output": "30-output1.png"}]')
    with pytest.raises(ValueError, match="needed are input, output, instruction"):
        MAGIC_BRUSH.read(tmp_path, "test")
    (tmp_path / "test/edit_sessions.json").write_text('{"30": []}')
    with pytest.raises(ValueError, match="a session without turns"):
        MAGIC_BRUSH_MULTI_TURN.read(tmp_path, "test")


def test_a_session_goes_through_the_command(run, setokim_folder, tmp_path):
    write_magic_brush(tmp_path)
    measured = run("magicbrush-multi-turn", setokim_folder, tmp_path, tmp_path / "results.json")
    folder = tmp_path / "results.predictions"
    final = {line["key"]: Image.open(folder / line["answer"]["file"]) for line in measured.predictions[1:]}
    assert list(final) == ["139306-output2", "30-output1"]
    expected = MAGIC_BRUSH.score(MAGIC_BRUSH_MULTI_TURN.read(tmp_path, "test"), list(final.values()), Networks())
    assert {key: measured.results[key] for key in expected} == pytest.approx(expected)


def test_each_turn_goes_on_from_the_answer_before(setokim_folder, tmp_path):
    first, second = (tmp_path / f"{name}.png" for name in ("first", "second"))
    pictures(1, SIZE)[0].save(first)
    answerer = load_answerer(str(setokim_folder), "cpu")

    def edited(*examples: Example) -> list[Image.Image]:
        answers = answerer.answer("image", examples, [example.request for example in examples], Options())
        return [answer.content for answer in answers]

    (step,) = edited(Example("one", "Add a cat.", (first,)))
    step.save(second)
    (expected,) = edited(Example("one", "Add a dog.", (second,)))
    together, alone = edited(
        Example("one", "Add a cat.", (first,), then=("Add a dog.",)), Example("two", "No.", (first,))
    )
    assert _furthest(together, expected) <= 1 < _furthest(together, step)
    assert _furthest(alone, edited(Example("two", "No.", (first,)))[0]) <= 1


def _furthest(picture: Image.Image, other: Image.Image) -> int:
    return max(high for _, high in ImageChops.difference(picture, other).getextrema())
