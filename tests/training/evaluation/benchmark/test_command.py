"""The whole command: models of several kinds by the same code, what it leaves, and how it goes on."""

import json

import pytest

from tests.benchmark_releases import write_iconqa, write_mmlu, write_vqav2
from tests.setokim_testing import pictures
from training.evaluation.benchmark import __main__ as command
from training.evaluation.benchmark import measuring
from training.evaluation.benchmark.answering import Setokim
from training.evaluation.benchmark.benchmark import Benchmark, Example
from training.evaluation.report import Row

SHORT = "Answer the question using a single word or phrase."


@pytest.fixture
def vqav2(tmp_path):
    return write_vqav2(tmp_path / "vqav2")


def test_a_setokim_and_a_llava_are_measured_alike(run, vqav2, setokim_folder, llava_folder, tmp_path):
    runs = {
        name: run("vqav2", folder, vqav2, tmp_path / f"{name}.json", "--batch_size", "2")
        for name, folder in {"setokim": setokim_folder, "llava": llava_folder}.items()
    }
    for measured in runs.values():
        assert measured.results["num_examples"] == 3 and measured.results["accuracy"] == 0  # they answer nonsense
        head, *lines = measured.predictions
        assert head["benchmark"] == "vqav2" and head["split"] == "val"
        assert [line["key"] for line in lines] == ["42000", "42001", "73000"]
        assert lines[0]["request"] == f"What is in front of the batter?\n{SHORT}"
        (submitted,) = measured.submission.values()
        assert [row["question_id"] for row in json.loads(submitted)] == [42000, 42001, 73000]
        assert "VQA accuracy" in measured.table and "visual tokens per picture" in measured.table
    counts = [line["visual_tokens"] for line in runs["setokim"].predictions[1:]]
    assert counts[0] == counts[1] != counts[2]  # of the same picture, and of another
    assert runs["setokim"].results["visual_tokens_per_picture"] == pytest.approx(sum(counts) / 3)
    assert runs["llava"].results["visual_tokens_per_picture"] == 64


@pytest.mark.parametrize("name, write", [("mmlu", write_mmlu), ("iconqa-choose-img", write_iconqa)])
def test_rows_without_pictures_and_with_several(name, write, run, setokim_folder, llava_folder, tmp_path):
    data = write(tmp_path / "data")
    for folder in (setokim_folder, llava_folder):
        one = run(name, folder, data, tmp_path / f"{folder.name}-1.json", "--batch_size", "1")
        four = run(name, folder, data, tmp_path / f"{folder.name}-4.json", "--batch_size", "4")
        assert one.results == four.results and one.predictions == four.predictions
        assert ("visual_tokens_per_picture" in one.results) == (name != "mmlu")


def test_a_killed_run_goes_on(run, vqav2, setokim_folder, tmp_path, monkeypatch):
    whole = run("vqav2", setokim_folder, vqav2, tmp_path / "whole.json", "--batch_size", "1")
    asked, answer = [], Setokim.answer

    def stopping(self, kind, examples, requests, options):
        if len(asked) == 1:
            raise KeyboardInterrupt
        asked.extend(examples)
        return answer(self, kind, examples, requests, options)

    monkeypatch.setattr(Setokim, "answer", stopping)
    with pytest.raises(KeyboardInterrupt):
        run("vqav2", setokim_folder, vqav2, tmp_path / "killed.json", "--batch_size", "1")
    file = tmp_path / "killed.predictions.jsonl"
    assert len(file.read_text().splitlines()) == 2 and not (tmp_path / "killed.json").exists()
    with file.open("a") as opened:
        opened.write('{"key": "42001", "requ')  # it was killed while it wrote
    asked.clear()

    def noting(self, kind, examples, requests, options):
        asked.extend(examples)
        return answer(self, kind, examples, requests, options)

    monkeypatch.setattr(Setokim, "answer", noting)
    again = run("vqav2", setokim_folder, vqav2, tmp_path / "killed.json", "--batch_size", "2")
    assert [example.key for example in asked] == ["42001", "73000"]
    assert again == whole


def test_predictions_of_another_run_are_refused(run, vqav2, setokim_folder, llava_folder, tmp_path):
    output = tmp_path / "results.json"
    run("vqav2", setokim_folder, vqav2, output, "--limit", "1")
    with pytest.raises(ValueError, match="another run, with model .*choose another --output, or delete the file"):
        run("vqav2", llava_folder, vqav2, output)
    with pytest.raises(ValueError, match="with split 'val' instead of 'test-dev'"):
        run("vqav2", setokim_folder, vqav2, output, "--split", "test-dev")
    with pytest.raises(ValueError, match="holds an answer of 42000 to"):
        run("vqav2", setokim_folder, vqav2, output, "--answer_form", "Say it in a word.")
    assert len(run("vqav2", setokim_folder, vqav2, output).predictions) == 1 + 3  # the rest, with the same of all


def test_answers_that_are_not_released(run, vqav2, setokim_folder, tmp_path):
    measured = run("vqav2", setokim_folder, vqav2, tmp_path / "results.json", "--split", "test-dev")
    assert set(measured.results) == {"num_examples", "visual_tokens_per_picture"}
    assert len(json.loads(measured.submission["vqa_OpenEnded_mscoco_results.json"])) == 1


def test_what_is_wrong_is_said(run, vqav2, setokim_folder, setok_folder, tmp_path):
    output = tmp_path / "results.json"
    with pytest.raises(ValueError, match='"text", which a SeTok does not give: take it to a Setokim or an image-text'):
        run("vqav2", setok_folder, vqav2, output)
    with pytest.raises(ValueError, match="splits val, test-dev, test; got 'train'"):
        run("vqav2", setokim_folder, vqav2, output, "--split", "train")
    with pytest.raises(ValueError, match="limit and the batch size must be 1 or more"):
        run("vqav2", setokim_folder, vqav2, output, "--limit", "0")
    with pytest.raises(ValueError, match="There is no v2_OpenEnded_mscoco_val2014_questions.json"):
        run("vqav2", setokim_folder, tmp_path, output)
    with pytest.raises(SystemExit):
        run("no-such-benchmark", setokim_folder, vqav2, output)


def picture_benchmark(answer: str, seen: list) -> Benchmark:
    """Of two examples with a picture each, whose answers it keeps in `seen`."""

    def read(data, split):
        return [Example(f"row/{number}", "the dog", (data / f"{number}.png",)) for number in range(2)]

    def score(examples, answers, networks):
        seen.append([answers[number] for number in range(len(answers))])
        return {"num_examples": len(examples)}

    return Benchmark("pictures", answer, ("test",), "", "", read, score, (Row("rows", "num_examples", ".0f"),))


@pytest.mark.parametrize("answer", ["mask", "image", "reconstruction"])
def test_masks_and_pictures_are_kept(answer, run, setokim_folder, setok_folder, tmp_path, monkeypatch):
    for number, picture in enumerate(pictures(2, (30, 20))):
        picture.save(tmp_path / f"{number}.png")
    seen = []
    monkeypatch.setitem(command.BENCHMARKS, "pictures", picture_benchmark(answer, seen))
    model = setok_folder if answer == "reconstruction" else setokim_folder
    asked = len(run("pictures", model, tmp_path, tmp_path / "first.json", "--batch_size", "1").predictions)
    assert asked == 3
    run("pictures", model, tmp_path, tmp_path / "first.json")  # nothing is asked again
    run("pictures", model, tmp_path, tmp_path / "second.json", "--batch_size", "2")
    assert (tmp_path / "first.predictions.jsonl").read_text() == (tmp_path / "second.predictions.jsonl").read_text()
    for first, again, second in zip(*seen, strict=True):
        if answer == "mask":
            assert first.shape == (20, 30) and first.dtype == bool
            assert (first == again).all() and (first == second).all()
        else:
            assert first.mode == "RGB" and first.size == ((30, 20) if answer == "image" else (6, 6))
            assert first.tobytes() == again.tobytes()
            assert max(abs(a - b) for a, b in zip(first.tobytes(), second.tobytes(), strict=True)) <= 1


def test_weights_are_known_again(setokim_folder, llava_folder):
    assert measuring.fingerprint(str(setokim_folder)) == measuring.fingerprint(str(setokim_folder))
    assert measuring.fingerprint(str(setokim_folder)) != measuring.fingerprint(str(llava_folder))
    assert measuring.fingerprint("a/hub-id") is None
