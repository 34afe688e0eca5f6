"""The token cache: what is in it, who may write it, what it is refused for, and the losses that it gives."""

import copy
from dataclasses import replace

import pytest
import torch

from tests.setokim_testing import tiny_setok, tiny_setokim
from training import token_cache
from training.data.mixture import Mixture
from training.data.row_lengths import RowLengths
from training.data.setokim_collator import SetokimCollator
from training.data.sources import MixtureArguments, load_mixture, load_stream
from training.token_cache import TokenCache, from_token_cache, token_fingerprint, write_token_cache

TASKS = ("caption", "text_to_image", "edit", "two_images", "text_only", "referring", "outlines")
PARTS = [{"dataset": "emoji_scenes", "task": task, "image_size": 24} for task in TASKS]
NUM_ROWS = 21


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(token_cache, "SHARD_ROWS", 8)


@pytest.fixture(scope="module")
def rows() -> Mixture:
    return load_mixture(PARTS, NUM_ROWS)


@pytest.fixture(scope="module")
def model(processor):
    torch.manual_seed(0)
    return tiny_setokim(processor)


def fingerprint_of(setok, processor, rows: Mixture, parts=PARTS) -> dict:
    return token_fingerprint(setok, processor.image_processor, parts, rows)


def write(folder, setok, processor, rows: Mixture, **processes) -> dict:
    """Its fingerprint."""
    fingerprint = fingerprint_of(setok, processor, rows)
    collator = SetokimCollator(processor)
    write_token_cache(folder, rows, NUM_ROWS, collator, setok, fingerprint, batch_size=3, **processes)
    return fingerprint


@pytest.fixture(scope="module")
def cache(model, processor, rows, tmp_path_factory) -> TokenCache:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_cache, "SHARD_ROWS", 8)
        return TokenCache(folder, NUM_ROWS, write(folder, model.model.setok, processor, rows))


def test_a_row_is_what_setok_makes_of_its_pictures(cache, model, processor, rows):
    assert len(cache) == NUM_ROWS
    for row, kept in zip(rows, cache, strict=True):
        assert kept["messages"] == row["messages"] and kept["task"] == row["task"]
        assert len(kept["concept_tokens"]) == len(row["images"])
        if not row["images"]:
            continue
        pixels = processor.image_processor(row["images"])["pixel_values"]
        with torch.no_grad():
            output = model.model.setok(pixels)
        for number, tokens in enumerate(kept["concept_tokens"]):
            expected = output.last_hidden_state[number, output.token_mask[number]]
            torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)
        assert ("masks" in kept) == bool(row["masks"])
        if row["masks"]:
            assert torch.equal(kept["masks"].float(), SetokimCollator(processor)([row])["masks"])
            assert torch.equal(kept["cluster_ids"].long(), output.cluster_ids[0])
            assert kept["grid_size"] == output.grid_size == (6, 6)
            torch.testing.assert_close(kept["patch_embeddings"].float(), output.patch_embeddings[0], rtol=1e-3, atol=0)
    assert cache[-1]["messages"] == rows[NUM_ROWS - 1]["messages"]
    with pytest.raises(IndexError, match="row 21 of 21"):
        cache[NUM_ROWS]


@pytest.mark.parametrize("pack_rows", [False, True])
def test_a_batch_from_the_cache_has_the_losses_of_its_pixels(cache, model, processor, rows, pack_rows):
    """And all gradients, also where the language model reads the rows end to end; the order of rows is mixed, so that
    those with masks stand between others."""
    model = copy.deepcopy(model)
    model.config.mask_decoder_config.token_noise = 0.0
    order = torch.randperm(NUM_ROWS, generator=torch.Generator().manual_seed(1)).tolist()
    collator = SetokimCollator(processor)
    batches = collator([rows[i] for i in order]), collator([cache[i] for i in order])
    assert "pixel_values" in batches[0] and "pixel_values" not in batches[1]
    for name in ("input_ids", "attention_mask", "labels", "masks"):
        assert torch.equal(batches[0][name], batches[1][name])
    outputs, gradients = [], []
    for batch, packed in zip(batches, (False, pack_rows), strict=True):
        torch.manual_seed(0)
        model.zero_grad()
        outputs.append(model(**batch, use_cache=False, pack_rows=packed))
        outputs[-1].loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for name in ("text_loss", "diffusion_loss", "mask_loss"):
        assert outputs[1][name].item() == pytest.approx(outputs[0][name].item(), abs=1e-5)
    is_real = batches[0]["attention_mask"].bool()
    torch.testing.assert_close(outputs[1].logits[is_real], outputs[0].logits[is_real], rtol=1e-4, atol=1e-4)
    assert gradients[0].keys() == gradients[1].keys() and any("projector" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-4, msg=name)


def test_text_alone_needs_no_pictures(cache, processor, rows):
    (number,) = [i for i, row in enumerate(rows) if not row["images"]][:1]
    batch, expected = (SetokimCollator(processor)([source[number]]) for source in (cache, rows))
    assert batch.keys() == expected.keys() == {"input_ids", "attention_mask", "labels"}


def test_the_rows_of_some_tasks_alone(cache, rows, processor, model):
    tasks = ["edit", "outlines"]
    part = cache.of_tasks(tasks)
    expected = [index for index, row in enumerate(rows) if row["task"] in tasks]
    assert part.indices == expected and 1 < len(part) < NUM_ROWS
    assert [row["messages"] for row in part] == [rows[index]["messages"] for index in expected]
    with pytest.raises(ValueError, match="has no rows of chess, only of "):
        cache.of_tasks(["edit", "chess"])
    setok, image_processor = model.model.setok, processor.image_processor
    arguments = MixtureArguments(PARTS, NUM_ROWS, token_cache=str(cache.shards.folder), cached_tasks=tasks)
    assert from_token_cache(arguments, rows, setok, image_processor).indices == expected
    with pytest.raises(ValueError, match="cached_tasks are tasks of a token_cache"):
        from_token_cache(MixtureArguments(PARTS, NUM_ROWS, cached_tasks=tasks), rows, setok, image_processor)


def test_processes_write_their_shards_and_a_second_run_what_is_missing(model, processor, rows, cache, tmp_path):
    setok = model.model.setok
    fingerprint = write(tmp_path, setok, processor, rows, process_index=1, num_processes=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache.json", "tokens-000001.safetensors"]
    with pytest.raises(ValueError, match="lacks 2 of 3 shards, such as tokens-000000.safetensors: run training/cache_"):
        TokenCache(tmp_path, NUM_ROWS, fingerprint)
    kept = (tmp_path / "tokens-000001.safetensors").stat().st_mtime_ns
    write(tmp_path, setok, processor, rows, process_index=0, num_processes=2)
    (tmp_path / "tokens-000002.safetensors").unlink()
    write(tmp_path, setok, processor, rows)
    assert (tmp_path / "tokens-000001.safetensors").stat().st_mtime_ns == kept
    TokenCache(tmp_path, NUM_ROWS, fingerprint)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == sorted(path.name for path in cache.shards.folder.iterdir()) and len(files) == 4
    for name in files:  # as one process wrote them
        assert (tmp_path / name).read_bytes() == (cache.shards.folder / name).read_bytes()


def test_a_cache_of_something_else_is_refused(cache, model, processor, rows):
    setok, folder = model.model.setok, cache.shards.folder
    retrained, regrouped, resized = copy.deepcopy(setok), copy.deepcopy(setok), copy.deepcopy(processor)
    with torch.no_grad():
        next(retrained.token_merger.parameters()).add_(1e-3)
    regrouped.config.num_neighbors += 1
    resized.image_processor.size = {"height": 32, "width": 32}
    other_parts = [part | {"vocabulary": "full"} for part in PARTS]
    others = {
        "SeTok": fingerprint_of(retrained, processor, rows),
        "configuration of SeTok": fingerprint_of(regrouped, processor, rows),
        "image processor": fingerprint_of(setok, resized, rows),
    }
    others["SeTok and another image processor"] = others["SeTok"] | {
        "image processor": others["image processor"]["image processor"]
    }
    for what, fingerprint in others.items():
        with pytest.raises(ValueError, match=f"is of another {what} than this recipe asks for: choose another folder"):
            TokenCache(folder, NUM_ROWS, fingerprint)
    for seed, number, parts in ((1, NUM_ROWS, PARTS), (0, NUM_ROWS - 1, PARTS), (0, NUM_ROWS, other_parts)):
        mixture = load_mixture(parts, number, seed)
        with pytest.raises(ValueError, match="is of another mixture than this recipe"):
            TokenCache(folder, number, fingerprint_of(setok, processor, mixture, parts))
        with pytest.raises(ValueError, match="is of another mixture than this recipe"):
            write_token_cache(
                folder, mixture, len(mixture), None, setok, fingerprint_of(setok, processor, mixture, parts)
            )


def test_rows_that_have_changed_since_are_another_mixture(model, processor, rows):
    """Such as a data set whose files are no longer those."""

    class Redrawn:
        def __getitem__(self, index):
            row = rows.parts[0][index]
            return {**row, "images": [image.rotate(90) for image in row["images"]]}

    redrawn = Mixture(rows.names, (Redrawn(), *rows.parts[1:]), rows.part_of, rows.row_of)
    before, after = (fingerprint_of(model.model.setok, processor, mixture) for mixture in (rows, redrawn))
    assert {name for name in before if before[name] != after[name]} == {"mixture"}


def test_the_same_setok_has_one_fingerprint_wherever_it_lies(model, processor, rows, tmp_path):
    """In a folder of its own or inside a Setokim, however it attends, whatever the parts are called."""
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, attn_implementation="eager")
    named = [part | {"name": f"part {number}", "weight": 1} for number, part in enumerate(PARTS)]
    expected = fingerprint_of(model.model.setok, processor, rows)
    found = fingerprint_of(again.model.setok, type(processor).from_pretrained(tmp_path), rows, named)
    assert found == expected


def test_what_cannot_be_kept_is_refused(processor, rows, tmp_path):
    soft = tiny_setok().setok
    soft.config.assignment_mode = "soft"
    with pytest.raises(ValueError, match="does not keep the soft masks .* rows of task '(referring|outlines)'"):
        write(tmp_path / "soft", soft, processor, rows)
    large = tiny_setok().setok
    with torch.no_grad():
        large.vision_encoder.post_layernorm.weight.mul_(1e6)
    with pytest.raises(ValueError, match="beyond the range of float16"):
        write(tmp_path / "large", large, processor, rows)
    assert not (tmp_path / "large" / "cache.json").exists()


def test_a_picture_of_many_rows_is_encoded_and_kept_once(model, processor, tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "SHARD_ROWS", 24)
    tasks = ["outlines", "referring", "caption", "caption", "edit", "question"]
    parts = [{"name": "all", "dataset": "emoji_scenes", "tasks": tasks, "rows_per_scene": 6, "image_size": 24}]
    rows, setok, encoded = load_mixture(parts, 24), copy.deepcopy(model.model.setok), []
    setok.register_forward_pre_hook(lambda module, args: encoded.extend(args[0]))
    fingerprint = fingerprint_of(setok, processor, rows, parts)
    write_token_cache(tmp_path, rows, len(rows), SetokimCollator(processor), setok, fingerprint, batch_size=3)

    distinct = {picture.tobytes() for row in rows for picture in row["images"]}
    assert len(encoded) == len(distinct) < sum(len(row["images"]) for row in rows) / 2
    kept = TokenCache(tmp_path, 24, fingerprint)
    for row, cached in zip(rows, kept, strict=True):
        with torch.no_grad():
            output = model.model.setok(processor.image_processor(row["images"])["pixel_values"])
        for number, tokens in enumerate(cached["concept_tokens"]):
            expected = output.last_hidden_state[number, output.token_mask[number]]
            torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)
        if row["masks"]:
            torch.testing.assert_close(
                cached["patch_embeddings"].float(), output.patch_embeddings[0], rtol=1e-3, atol=0
            )
    (shard,) = map(token_cache.open_shard, tmp_path.glob("*.safetensors"))
    assert shard.get_slice("patch_embeddings").get_shape()[0] == 4  # two rows of each scene have masks


def test_of_a_stream_the_first_rows_are_kept(model, processor, tmp_path):
    """By two processes, one of them stopped and going on; others may read it, for the same recipe alone."""
    setok, collator = model.model.setok, SetokimCollator(processor)
    stream = load_stream(PARTS, seed=3, shuffle_buffer=4)
    fingerprint = fingerprint_of(setok, processor, stream)

    def write_as(process: int, num_rows: int = NUM_ROWS, num_processes: int = 2) -> None:
        write_token_cache(tmp_path, stream, num_rows, collator, setok, fingerprint, 3, process, num_processes)

    write_as(0, num_rows=8)  # a shard, and then it is stopped
    for process in (1, 0):
        write_as(process)
    cache = TokenCache(tmp_path, NUM_ROWS, fingerprint)
    readers = [stream.consumer(process, 2) for process in range(2)]
    for number, kept in enumerate(cache):
        row = next(readers[number // 8 % 2])
        assert (kept["messages"], len(kept["concept_tokens"])) == (row["messages"], len(row["images"]))
    with pytest.raises(ValueError, match="another number of processes"):
        write_as(0, num_processes=1)
    args = MixtureArguments(PARTS, NUM_ROWS, streaming=True, shuffle_buffer=4, token_cache=str(tmp_path))
    assert len(from_token_cache(args, stream, setok, processor.image_processor)) == NUM_ROWS
    for other in (
        load_stream(PARTS, seed=4, shuffle_buffer=4),
        load_stream(PARTS[:-1], seed=3, shuffle_buffer=4),
        replace(stream, lengths=RowLengths(processor, 1000)),
    ):
        with pytest.raises(ValueError, match="of another mixture"):
            TokenCache(tmp_path, NUM_ROWS, fingerprint_of(setok, processor, other))
