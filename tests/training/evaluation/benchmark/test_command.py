"""The whole command: models of several kinds by the same code, what it leaves, and how it goes on."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

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
        assert head["benchmark"] == "vqav2" and head["split"] == "val" and head["data"] == str(vqav2)
        assert [line["key"] for line in lines] == ["42000", "42001", "73000"]
        assert lines[0]["request"] == f"What is in front of the batter?\n{SHORT}"
        (submitted,) = measured.submission.values()
        assert [row["question_id"] for row in json.loads(submitted)] == [42000, 42001, 73000]
        assert "VQA accuracy" in measured.table and "visual tokens per picture" in measured.table
    counts = [line["visual_tokens"] for line in runs["setokim"].predictions[1:]]
    assert counts[0] == counts[1] != counts[2]  # of the same picture, and of another
    assert runs["setokim"].results["visual_tokens_per_picture"] == pytest.approx(sum(counts) / 3)
    assert runs["llava"].results["visual_tokens_per_picture"] == 64
    num_cut = sum(line["cut"] for line in runs["llava"].predictions[1:])
    assert num_cut == runs["llava"].results["num_cut"] > 0 and "answers cut at max_new_tokens" in runs["llava"].table


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
    with pytest.raises(SystemExit, match="another run, with model .*choose another --output, or delete the file"):
        run("vqav2", llava_folder, vqav2, output)
    with pytest.raises(SystemExit, match="with split 'val' instead of 'test-dev'"):
        run("vqav2", setokim_folder, vqav2, output, "--split", "test-dev")
    with pytest.raises(SystemExit, match="with data .* instead of .*elsewhere"):
        run("vqav2", setokim_folder, write_vqav2(tmp_path / "elsewhere"), output)
    with pytest.raises(SystemExit, match="with max_new_tokens 4 instead of 5"):
        run("vqav2", setokim_folder, vqav2, output, "--max_new_tokens", "5")
    with pytest.raises(SystemExit, match="with seed 0 instead of 1"):
        run("vqav2", setokim_folder, vqav2, output, "--seed", "1")
    with pytest.raises(SystemExit, match="holds an answer of 42000 to"):
        run("vqav2", setokim_folder, vqav2, output, "--answer_form", "Say it in a word.")
    assert len(run("vqav2", setokim_folder, vqav2, output).predictions) == 1 + 3  # the rest, with the same of all


def test_answers_that_are_not_released(run, vqav2, setokim_folder, tmp_path):
    measured = run("vqav2", setokim_folder, vqav2, tmp_path / "results.json", "--split", "test-dev")
    assert set(measured.results) - {"num_cut"} == {"num_examples", "visual_tokens_per_picture"}
    assert len(json.loads(measured.submission["vqa_OpenEnded_mscoco_results.json"])) == 1


def without(*name):
    return lambda folder: folder.joinpath(*name).unlink()


def holding(content, name="v2_OpenEnded_mscoco_val2014_questions.json"):
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (None, ["--data", "elsewhere"], "There is no v2_OpenEnded_mscoco_val2014_questions.json in elsewhere"),
        (without("val2014", "COCO_val2014_000000000073.jpg"), [], "'COCO_val2014_000000000073.jpg' does not exist in"),
        (holding(b"GIF", "val2014/COCO_val2014_000000000042.jpg"), [], "000042.jpg cannot be read: cannot identify"),
        (None, ["--split", "train"], "vqav2 has no split 'train': choose val or test-dev or test"),
        (None, ["--limit", "0"], "The limit must be 1 or more, got 0"),
        (None, ["--batch_size", "0"], "batch size and max_new_tokens must be 1 or more, got 0 and 4"),
        (None, ["--max_new_tokens", "0"], "must be 1 or more, got 8 and 0"),
        (holding(b""), [], "questions.json is not valid JSON"),
        (holding(b"{}"), [], "'questions' must be a list, not a NoneType"),
        (holding(b'{"questions": []}'), [], "There is no example of vqav2, split val"),
        (holding(b'{"questions": [{"id": 4, "caption": "A dog."}]}'), [], "needed are question_id, image_id, question"),
        (None, ["--device", "gpu"], "There is no device 'gpu'"),
        (None, ["--clip", "no/clip"], "no/clip is no folder of a model here, nor in reach on the Hub"),
        (None, ["--model", "no/such-model"], "no/such-model is no folder of a model here, nor in reach on the Hub"),
        (None, ["--output", "FOLDER/val.json/results.json"], "val.json"),
    ],
)
def test_a_mistake_ends_in_words(change, arguments, message, run, vqav2, setokim_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "val.json").touch()
    if change is not None:
        change(vqav2)
    arguments = [argument.replace("FOLDER", str(tmp_path)) for argument in arguments]
    with pytest.raises(SystemExit) as ended:
        run("vqav2", setokim_folder, vqav2, tmp_path / "results.json", *arguments)
    assert str(ended.value).startswith("Error: ") and message in str(ended.value)


def test_a_model_of_another_kind_is_refused(run, vqav2, setok_folder, tmp_path):
    output = tmp_path / "results.json"
    with pytest.raises(SystemExit, match='"text", which a SeTok does not give: take it to a Setokim or an image-text'):
        run("vqav2", setok_folder, vqav2, output)
    LlamaConfig().save_pretrained(tmp_path / "llama")
    with pytest.raises(SystemExit, match="llama is a llama: name a Setokim, a SeTok or an image-text-to-text model"):
        run("vqav2", tmp_path / "llama", vqav2, output)
    with pytest.raises(SystemExit, match="has no config.json: name the folder of a model"):
        run("vqav2", vqav2, vqav2, output)


def test_a_model_without_some_of_its_weights_is_refused(run, vqav2, setokim_folder, tmp_path):
    """As one that was shipped without its SeTok, which would be measured with a random one."""
    folder = shutil.copytree(setokim_folder, tmp_path / "part")
    weights = load_file(folder / "model.safetensors")
    rest = {name: value for name, value in weights.items() if not name.startswith("model.setok.")}
    assert 0 < len(rest) < len(weights)
    save_file(rest, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SystemExit, match="does not hold a whole SetokimForConditionalGeneration: it lacks"):
        run("vqav2", folder, vqav2, tmp_path / "results.json")


def test_arguments_that_say_nothing_are_refused(run, vqav2, setokim_folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("no-such-benchmark", setokim_folder, vqav2, tmp_path / "results.json")
    with pytest.raises(SystemExit):
        run("vqav2", setokim_folder, vqav2, tmp_path)
    assert "--output names the JSON file of the results" in capsys.readouterr().err


def test_two_examples_of_one_key_are_refused_before_any_is_answered(run, vqav2, setokim_folder, tmp_path):
    file = vqav2 / "v2_OpenEnded_mscoco_val2014_questions.json"
    questions = json.loads(file.read_text())["questions"]
    file.write_text(json.dumps({"questions": [*questions, questions[0]]}))
    with pytest.raises(SystemExit, match="vqav2 have 2 examples of the key '42000'"):
        run("vqav2", setokim_folder, vqav2, tmp_path / "results.json")


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


def test_a_model_is_known_again_by_all_that_its_answers_depend_on(setokim_folder, tmp_path):
    known = measuring.fingerprint(str(setokim_folder))
    copy = shutil.copytree(setokim_folder, tmp_path / "copy")
    (copy / "results.json").write_text("{}")
    assert measuring.fingerprint(str(copy)) == known
    for name in ("config.json", "chat_template.jinja"):
        content = (copy / name).read_text()
        (copy / name).write_text(content + " ")
        assert measuring.fingerprint(str(copy)) != known
        (copy / name).write_text(content)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[len(weights) // 3] ^= 1  # anywhere
    (copy / "model.safetensors").write_bytes(weights)
    assert measuring.fingerprint(str(copy)) != known


def test_a_model_of_the_hub_is_known_by_its_commit(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--a--model" / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr(measuring, "cached_file", lambda *asked: str(snapshot / "config.json"))
    assert measuring.fingerprint("a/model") == "0123abc"
