import pytest
import torch

from modeling_setok import SetokModel
from training.evaluation.cost import REGIONS, benchmark_config, contestants, planted_patches, time_in_turns


@pytest.fixture(scope="module")
def model() -> SetokModel:
    return SetokModel(benchmark_config(tiny=True)).eval()


def test_planted_regions_are_what_the_clustering_finds(model):
    clusters, _ = model.token_clustering(planted_patches(4, grid=27, dim=64, device=model.device))
    assert clusters.num_tokens.tolist() == [REGIONS] * 4


@torch.no_grad()
def test_the_three_ways_to_merge_give_the_same_tokens(model):
    timed, num_tokens = contestants(model, batch=2)
    tokens = [timed[name]() for name in timed if name.startswith("inner")]
    assert len(tokens) == 3 and tokens[0].shape[0] == 2 and num_tokens > 8
    for other in tokens[1:]:
        torch.testing.assert_close(other, tokens[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_baseline_that_disagrees_is_not_timed(model, monkeypatch):
    monkeypatch.setattr("training.evaluation.cost.merge_in_a_loop", lambda *inputs: inputs[1].new_zeros(()))
    with pytest.raises(AssertionError, match="per-cluster loop"):
        contestants(model, batch=1)


def test_contestants_take_turns():
    calls = []
    timed = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    seconds = time_in_turns(timed, repeats=2, device=torch.device("cpu"))
    assert calls == ["a", "b"] * 3  # one round untimed
    assert [len(times) for times in seconds.values()] == [2, 2]
