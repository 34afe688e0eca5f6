"""Setokim spread over devices: what fits nowhere whole answers as it does whole."""

import numpy as np
import pytest
import torch
from accelerate import infer_auto_device_map
from accelerate.utils.modeling import check_device_map
from transformers import set_seed

from modeling_setok import SetokimConfig, SetokimForConditionalGeneration
from tests.setokim_testing import pictures, tiny_processor, tiny_setokim

PARTS = (
    "model.setok", "model.multi_modal_projector", "model.language_model", "model.token_statistics", "detokenizer",
    "diffusion_head", "mask_decoder",
)  # fmt: skip


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture(scope="module")
def resident(processor) -> SetokimForConditionalGeneration:
    set_seed(0)
    return tiny_setokim(processor, "llama-tied")


@pytest.fixture(scope="module")
def folder(resident, tmp_path_factory):
    folder = tmp_path_factory.mktemp("setokim")
    resident.save_pretrained(folder)
    return folder


def place(device_of) -> dict[str, str]:
    device_map = {name: device_of(name) for name in PARTS}
    return device_map | {"lm_head": device_map["model.language_model"]}  # tied: accelerate wants both on one device


def answers(model, processor) -> tuple[str, np.ndarray, np.ndarray]:
    """A caption, a painting and a mask."""
    options = {"max_visual_tokens": 3, "generator": torch.Generator().manual_seed(1)}
    (picture,) = pictures(1)
    return (
        model.caption(processor, picture, max_new_tokens=8),
        np.asarray(model.generate_image(processor, "Draw: a dog.", **options)),
        model.segment(processor, picture, "the dog", **options),
    )


def check_answers(device_map, resident, folder, processor, tmp_path) -> None:
    """The device that computes is the same, and so are the operations."""
    spread = SetokimForConditionalGeneration.from_pretrained(folder, device_map=device_map, offload_folder=tmp_path)
    caption, painting, mask = answers(spread.eval(), processor)
    expected_caption, expected_painting, expected_mask = answers(resident, processor)
    assert caption == expected_caption
    np.testing.assert_allclose(painting.astype(int), expected_painting.astype(int), atol=1)  # of 255
    np.testing.assert_array_equal(mask, expected_mask)


@pytest.mark.parametrize("part", PARTS)
def test_one_part_on_disk(part, resident, folder, processor, tmp_path):
    device_map = place(lambda name: "disk" if name == part else "cpu")
    check_answers(device_map, resident, folder, processor, tmp_path)


@pytest.mark.parametrize("part", ["model.setok", "detokenizer"])
def test_all_but_one_part_on_disk(part, resident, folder, processor, tmp_path):
    device_map = place(lambda name: "cpu" if name == part else "disk")
    check_answers(device_map, resident, folder, processor, tmp_path)


@pytest.mark.parametrize("percent", [0, 30, 60, 75, 85])
def test_memory_for_a_share_of_the_weights(percent, resident, folder, processor, tmp_path):
    size = sum(tensor.numel() * tensor.element_size() for tensor in resident.state_dict().values())
    classes = list(resident._no_split_modules)
    device_map = infer_auto_device_map(resident, {"cpu": size * percent // 100}, no_split_module_classes=classes)
    check_answers(device_map, resident, folder, processor, tmp_path)


@pytest.fixture(scope="module")
def paper_size() -> SetokimForConditionalGeneration:
    with torch.device("meta"):
        return SetokimForConditionalGeneration(SetokimConfig()).to(torch.bfloat16)


@pytest.mark.parametrize("max_memory", [{0: "10GiB", 1: "10GiB"}, {0: "12GiB", "cpu": "40GiB"}])
def test_the_papers_model_is_split(paper_size, max_memory):
    device_map = infer_auto_device_map(
        paper_size, max_memory, no_split_module_classes=list(paper_size._no_split_modules)
    )
    check_device_map(paper_size, device_map)
    assert set(device_map.values()) == set(max_memory)


def test_no_module_is_cut_from_its_own_parameters(resident):
    """Accelerate moves what a module is given to where the module is, but no parameter that its code reads."""
    modules, classes = dict(resident.named_modules()), list(resident._no_split_modules)
    size = sum(tensor.numel() * tensor.element_size() for tensor in resident.state_dict().values())
    for percent in range(2, 100, 2):
        max_memory = {0: size * percent // 100, "cpu": size}
        device_map = infer_auto_device_map(resident, max_memory, no_split_module_classes=classes)
        assert [name for name in device_map if name not in modules] == [], percent
