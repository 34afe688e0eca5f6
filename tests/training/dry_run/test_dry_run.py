"""What a dry run measures, by hand; what it opens; and what it finds would stop a training."""

import json
import re
from pathlib import Path

import PIL.Image
import pytest
from PIL import Image

from training.data.row_lengths import RowLengths
from training.dry_run.amounts import amounts_of
from training.dry_run.named_files import NamedFile, named_files
from training.dry_run.reading import ModelSource, Reading, reading_of
from training.dry_run.report import Findings, Step, write_report
from training.dry_run.sample import sample_parts
from training.finetune_setokim import main


def write_captions(folder: Path, number: int, broken: int = 0) -> dict:
    """A folder of pictures with captions, of which the last ones are no pictures."""
    (folder / "images").mkdir(parents=True)
    for i in range(number):
        file = folder / "images" / f"{i}.png"
        Image.new("RGB", (24, 24), (i, 0, 0)).save(file)
        if i >= number - broken:
            file.write_bytes(b"no picture")
    (folder / "data.json").write_text(json.dumps([{"image": f"{i}.png", "caption": "Red."} for i in range(number)]))
    return {"name": "captions", "dataset": str(folder)}


def write_texts(file: Path, texts: list[str]) -> dict:
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return {"name": "texts", "dataset": "json", "data_files": str(file)}


def report_of(parts: list[dict], lengths: RowLengths, step: Step, streaming: bool = True) -> dict[str, list[str]]:
    """The cells of each part's line."""
    samples = sample_parts(parts, 100)
    amounts = {sample.name: amounts_of(sample, lengths, streaming) for sample in samples}
    reading = Reading(lengths.processor, lengths.image_tokens, True)
    report = write_report(samples, amounts, reading, step, Findings(), 100)
    lines = [line.strip("| \n").split(" | ") for line in report.splitlines() if line.startswith("| ")]
    return {line[0]: line for line in lines[2:]} | {"report": [report]}


def test_shares_and_steps_by_hand(tmp_path, processor):
    """A text is cut to 3 pieces, and one of four pictures is broken."""
    lengths = RowLengths(processor, 200, 12, "cut")
    parts = [
        write_texts(tmp_path / "texts.jsonl", ["b" * 400]) | {"weight": 1},
        write_captions(tmp_path / "captions", 4, broken=1) | {"weight": 3, "on_error": "skip"},
    ]
    lines = report_of(parts, lengths, Step(8, 2, 3, 100))
    pieces, _ = lengths.fit({"task": "text_only", "messages": [talk("assistant", "b" * 400)]})
    assert len(pieces) == 3
    text = sum(lengths.measure([piece["messages"] for piece in pieces]))
    caption = [
        {
            "role": "user",
            "content": [{"type": "image", "text": None}, {"type": "text", "text": "Describe the picture."}],
        },
        talk("assistant", "Red."),
    ]
    pair = lengths.measure([caption])[0]
    # Of four drawn rows one is a text, which becomes 3 rows, and three are captions, of which 3/4 are good: 9/4 rows
    rows, tokens = (3 + 9 / 4) / 4, (text + 9 / 4 * pair) / 4
    told, of_pictures = lines["texts"], lines["captions"]
    assert told[5] == f"{100 * 3 / 4 / rows:.1f} %" == "57.1 %"
    assert of_pictures[6] == f"{100 * 9 / 16 * pair / tokens:.1f} %"
    assert (told[7], told[8]) == (f"{text / 3:.1f}", "0.0")
    assert (of_pictures[7], of_pictures[8]) == (f"{pair - 12:.1f}", "12.0")
    assert of_pictures[9] == f"{48 * 9 / 16 / rows:.1f}" == "20.6"
    # 48 rows are 48 / (21/16) drawn rows; three of four are captions, of which there are 4
    steps = 4 / (3 / 4 * 48 / (21 / 16))
    assert of_pictures[10] == f"{steps:.4g}" and float(of_pictures[11]) == pytest.approx(100 / steps, rel=0.01)
    assert of_pictures[2] == "1 of 4 looked up, 4 opened" and told[3] == "1 cut to pieces of 1"
    visual = 9 / 16 * 12 / tokens
    assert f"Visual tokens alone are {100 * visual:.1f} % of all" in lines["report"][0]


def test_without_streaming_good_rows_alone_count_and_long_texts_are_left_out(tmp_path, processor):
    lengths = RowLengths(processor, 200, 12, "cut")
    parts = [
        write_texts(tmp_path / "texts.jsonl", ["b" * 400, "short"]),
        write_captions(tmp_path / "captions", 4, broken=1) | {"on_error": "skip"},
    ]
    lines = report_of(parts, lengths, Step(8, 1, 1, -1), streaming=False)
    assert lines["texts"][5] == lines["captions"][5] == "50.0 %"
    assert lines["texts"][3] == "1 left out of 2" and lines["captions"][11] == "unknown"


def test_no_more_pictures_are_opened_than_those_of_the_sample(tmp_path, monkeypatch):
    opened, real = [], PIL.Image.open
    monkeypatch.setattr(PIL.Image, "open", lambda *args, **kwargs: opened.append(args) or real(*args, **kwargs))
    (sample,) = sample_parts([write_captions(tmp_path / "captions", 50)], 5)
    assert (sample.rows, sample.looked_at, len(sample.good)) == (50, 5, 5) and len(opened) == 5
    shades = {row["messages"][-1]["content"][0]["text"] for row in sample.good}
    assert shades == {"Red."} and sample.example["images"][0].getpixel((0, 0)) == (0, 0, 0)


def test_a_sample_is_taken_from_all_over_a_part(tmp_path):
    texts = [f"text {number}" for number in range(64)]
    files = [write_texts(tmp_path / f"{file}.jsonl", texts[file * 8 : file * 8 + 8]) for file in range(8)]
    (sample,) = sample_parts([files[0] | {"data_files": str(tmp_path / "*.jsonl")}], 8)
    assert [row["messages"][0]["content"][0]["text"] for row in sample.good] == texts[::8]
    assert sample.rows is None


def test_files_that_a_part_names(tmp_path):
    (tmp_path / "a.json").touch()
    part = {"dataset": "llava", "file": str(tmp_path / "a.json"), "images": [str(tmp_path), "nowhere"], "weight": 2}
    assert named_files(part) == [
        NamedFile(str(tmp_path / "a.json"), [str(tmp_path / "a.json")]),
        NamedFile(str(tmp_path), [str(tmp_path)]),
        NamedFile("nowhere", []),
    ]
    assert named_files({"dataset": "some/hub-id", "data_files": "data/*.parquet"}) == []
    pattern = str(tmp_path / "*.json")
    assert named_files({"dataset": "json", "data_files": {"train": [pattern, "https://a.org/b.json"]}}) == [
        NamedFile(pattern, [str(tmp_path / "a.json")])
    ]
    assert named_files({"dataset": "emoji_scenes", "task": "caption"}) == []


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "captions: has bad rows, at which training stops"),
        ({"on_error": "skip", "max_length": 10}, "captions: has rows of more than max_length = 10 tokens"),
        ({"on_error": "skip", "part": {"columns": {"image": "jpg"}, "dataset": "json"}}, "captions: none of 1 rows"),
        ({"on_error": "skip", "part": {"task": "nonsense"}}, "captions: The part .* is wrong"),
        ({"on_error": "skip", "part": {"dataset": "no/such-folder"}}, "captions: the data set no/such-folder"),
        ({"on_error": "skip", "token_cache": "nowhere"}, "token_cache: the folder nowhere"),
    ],
)
def test_what_would_stop_a_training_is_told(options, told, setokim_recipe, tmp_path, capsys):
    part = write_captions(tmp_path / "captions", 3, broken=1) | options.pop("part", {})
    if part["dataset"] == "json":
        part["data_files"] = str(tmp_path / "captions" / "data.json")
    if "on_error" in options:
        part["on_error"] = options.pop("on_error")
    recipe = setokim_recipe("finetune", tmp_path, mixture=[part], **options)
    with pytest.raises(SystemExit) as end:
        main([str(recipe), "--dry_run"])
    assert end.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("- ") and re.search(told, line) for line in lines)


def test_a_recipe_of_scenes_passes(setokim_recipe, tmp_path, capsys):
    recipe = setokim_recipe("finetune", tmp_path, pack_rows=True)
    with pytest.raises(SystemExit) as end:
        main([str(recipe), "--dry_run", "--dry_run_rows", "2"])
    report = capsys.readouterr().out
    assert end.value.code == 0 and report.count("made on demand") == 4
    assert "[Img]<mask>[/Img]<|im_end|>" in report and not (tmp_path / "run" / "trainer_state.json").exists()
    with pytest.raises(ValueError, match="dry_run_rows must be at least 1, got 0"):
        main([str(recipe), "--dry_run", "--dry_run_rows", "0"])


def test_how_a_new_model_will_read(setok_folder, processor, tmp_path):
    """Its tokenizer may be there, be learned from the data, or be missing."""
    new = reading_of(ModelSource(setok=str(setok_folder), vocab_size=300), ["An owl.", "An owl sees."])
    assert (
        new.counts_tokens and new.image_tokens == 12 and not new.missing and "learned from the sample" in new.notes[0]
    )
    values = {"vision_config": {"max_tokens": 5}}
    changed = reading_of(ModelSource(setok=str(setok_folder), vocab_size=300, config=values), [])
    assert changed.image_tokens == 5
    none = reading_of(ModelSource(setok=str(tmp_path), language_model="nobody/nothing"), [])
    assert not none.counts_tokens and none.image_tokens == 64
    assert [line.split(":")[0].split(" (")[0] for line in none.missing] == [str(tmp_path)] * 3 + ["nobody/nothing"]


def talk(role: str, text: str) -> dict:
    return {"role": role, "content": [{"type": "text", "text": text}]}
