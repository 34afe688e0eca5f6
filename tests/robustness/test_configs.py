"""Settings of every kind in every config: refused by name where it is made, or a model that works."""

import copy
import dataclasses
import math

import pytest
import torch

from modeling_setok import (
    SetokConfig,
    SetokDetokenizerConfig,
    SetokForPreTraining,
    SetokimConfig,
    SetokimDiffusionConfig,
    SetokimMaskDecoderConfig,
)
from modeling_setok.detokenizer import SetokDetokenizer
from modeling_setok.diffusion_head import DiffusionHead
from modeling_setok.mask_decoder import MaskDecoder
from modeling_setok.visual_tokens import VisualProjector
from tests.robustness.campaign import campaign
from tests.setokim_testing import TINY_HEADS, tiny_setok

pytestmark = pytest.mark.slow

VALUES = [
    math.nan, math.inf, -math.inf, -1.0, -1e-9, 0.0, 1e-6, 0.5, 1.0, 2.0, 100.0, -1, 0, 1, 2, 3, 4, 16, 48, True, None,
    "x", "", "gelu", "relu", "linear", "sample", "hard", "soft", [], [0], [-4], [8, 4], [8, "x"], ["a", "b"], {}, b"x",
]  # fmt: skip


def run_setok(config: SetokConfig) -> list[torch.Tensor]:
    model = SetokForPreTraining(config).train()
    output = model(torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0)))
    output.loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [output.loss, output.setok_output.last_hidden_state, *gradients]


def run_detokenizer(config: SetokDetokenizerConfig) -> list[torch.Tensor]:
    detokenizer = SetokDetokenizer(config, token_dim=16).train()
    return [detokenizer(torch.ones(1, 2, 16), torch.ones(1, 2, dtype=torch.bool))]


def run_diffusion(config: SetokimDiffusionConfig) -> list[torch.Tensor]:
    head = DiffusionHead(config, token_dim=16, condition_dim=32).train()
    with torch.no_grad():
        head.null_condition.zero_()
    return [head.loss(torch.ones(2, 16), torch.ones(2, 32)), head.sample(torch.ones(2, 32), num_steps=1)]


def run_mask_decoder(config: SetokimMaskDecoderConfig) -> list[torch.Tensor]:
    decoder = MaskDecoder(config, patch_dim=32, token_dim=16).train()
    return [decoder(torch.ones(1, 36, 32), (6, 6), torch.ones(1, 2, 16), torch.ones(1, 2, dtype=torch.bool))]


def run_setokim(config: SetokimConfig) -> list[torch.Tensor]:
    weights = [config.text_loss_weight, config.diffusion_loss_weight, config.mask_bce_weight, config.mask_dice_weight]
    return [torch.tensor([config.initializer_range, *weights]), VisualProjector(config)(torch.ones(2, 16))]


SETOK = tiny_setok().config.to_dict()
TEXT = {"model_type": "llama", "hidden_size": 32, "vocab_size": 50}
KINDS = {
    "SeTok": (SetokConfig, SETOK, run_setok),
    "detokenizer": (SetokDetokenizerConfig, SETOK["detokenizer_config"], run_detokenizer),
    "diffusion head": (SetokimDiffusionConfig, TINY_HEADS["diffusion_config"], run_diffusion),
    "mask decoder": (SetokimMaskDecoderConfig, TINY_HEADS["mask_decoder_config"], run_mask_decoder),
    "Setokim": (
        SetokimConfig,
        {
            "vision_config": SETOK, "text_config": TEXT, "image_start_token_id": 40, "image_token_id": 41,
            "image_end_token_id": 42, "mask_token_id": 43,
        },
        run_setokim,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_settings(kind):
    config_class, base, run = KINDS[kind]
    own = set(config_class.__annotations__)
    fields = [field.name for field in dataclasses.fields(config_class) if field.name in own]
    # Several share one refusal, which names all of them, or only their kind
    others = ["special tokens", "must differ", "no valid patch", "vision_feature_layer", "grid", "multiple of", "loss"]
    with campaign(f"settings, {kind}", least=250) as cases:
        for name in fields:
            for value in VALUES:
                if name.endswith("_config") and value in (None, {}):
                    continue  # the paper's part, which is large
                torch.manual_seed(0)
                cases.run(
                    f"{name}={value!r}",
                    lambda name=name, value=value: run(config_class(**copy.deepcopy(base) | {name: value})),
                    lambda results: all(bool(result.isfinite().all()) for result in results),
                    names=[name, *others],
                    must_refuse=isinstance(value, float) and not math.isfinite(value),
                )
