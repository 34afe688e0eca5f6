"""The token cache as a user makes it: the losses of pixels in both stages, by several processes, for a frozen SeTok."""

import pytest
from safetensors.torch import load_file

from tests.script_testing import copy_checkpoint, finish, launch, losses
from training import finetune_setokim, pretrain_setokim
from training.cache_tokens import main as cache_tokens

MAINS = {"pretrain": pretrain_setokim.main, "finetune": finetune_setokim.main}
SHORT = {"train_examples": 16, "optim": "sgd"}  # Adam makes much of what differs by rounding


@pytest.mark.parametrize("stage", MAINS)
def test_training_from_the_cache_gives_the_losses_of_training_from_pixels(stage, setokim_recipe, tmp_path):
    MAINS[stage]([str(setokim_recipe(stage, tmp_path / "pixels", **SHORT))])
    path = setokim_recipe(stage, tmp_path / "cached", token_cache=str(tmp_path / "cache"), **SHORT)
    cache_tokens([str(path)])
    MAINS[stage]([str(path)])
    from_pixels, from_cache = losses(tmp_path / "pixels" / "run"), losses(tmp_path / "cached" / "run")
    for of_pixels, of_cache in zip(from_pixels, from_cache, strict=True):
        assert of_cache == pytest.approx(of_pixels, abs=1e-5)
    assert {"text_loss", "diffusion_loss", "mask_loss"} <= {name for entry in from_cache for name in entry}
    copy_checkpoint(tmp_path / "cached" / "run", 2, tmp_path / "killed")
    path = setokim_recipe(stage, tmp_path / "killed", token_cache=str(tmp_path / "cache"), **SHORT)
    assert MAINS[stage]([str(path)]).state.global_step == 4
    assert losses(tmp_path / "killed" / "run") == losses(tmp_path / "cached" / "run")


@pytest.mark.slow
def test_two_processes_share_the_work(setokim_recipe, tmp_path):
    path = setokim_recipe("finetune", tmp_path, token_cache=str(tmp_path / "one"), train_examples=600)
    cache_tokens([str(path)])
    finish(launch("cache_tokens.py", path, "--token_cache", str(tmp_path / "two"), processes=2))
    one, two = (sorted((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert [file.name for file in one] == [file.name for file in two] == [
        "cache.json", "tokens-000000.safetensors", "tokens-000001.safetensors",
    ]  # fmt: skip
    assert one[0].read_text() == two[0].read_text()
    for own, other in zip(one[1:], two[1:], strict=True):
        own, other = load_file(own), load_file(other)
        assert own.keys() == other.keys()
        assert all(own[name].shape == other[name].shape for name in own)


@pytest.mark.parametrize(
    ("stage", "overrides"),
    [
        ("pretrain", {"trainable": ["model.setok.token_merger", "diffusion_head"]}),
        ("lora", {"lora": {"r": 2, "target_modules": "all-linear"}}),
    ],
)
def test_a_setok_that_is_trained_is_refused(stage, overrides, setokim_recipe, tmp_path):
    overrides |= {"token_cache": str(tmp_path / "cache"), "train_examples": 16}
    path = setokim_recipe(stage, tmp_path, **overrides)
    if stage == "lora":
        cache_tokens([str(path)])
        main = finetune_setokim.main
    else:
        main = cache_tokens
    with pytest.raises(ValueError, match="token_cache holds what SeTok gave before training, and here it is trained"):
        main([str(path)])


def test_without_a_folder_or_a_cache_it_says_so(setokim_recipe, tmp_path):
    with pytest.raises(ValueError, match="token_cache: FOLDER"):
        cache_tokens([str(setokim_recipe("finetune", tmp_path))])
    path = setokim_recipe("finetune", tmp_path, token_cache=str(tmp_path / "cache"))
    with pytest.raises(ValueError, match="holds no cache of tokens .*: run training/cache_tokens.py with this recipe"):
        finetune_setokim.main([str(path)])
