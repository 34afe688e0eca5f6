"""A projector that begins with names says of tokens what SeTok says of them, and still what it said before."""

import copy

import pytest
import torch
from torch.nn.functional import cosine_similarity

from tests.named_setok import named_setok
from tests.setokim_testing import pictures, tiny_processor, tiny_setok, tiny_setokim
from training.projector_names import begin_with_names, embeddings_of_names

NAMES = ["dog", "owl", "red car", "cat", "two dogs"]


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def pixels_of(processor) -> list[torch.Tensor]:
    return [processor.image_processor(pictures(6), return_tensors="pt")["pixel_values"]]


def test_a_name_of_one_token_is_its_embedding(processor):
    model = tiny_setokim(processor)
    embeddings = model.get_input_embeddings().weight
    (ids,) = processor.tokenizer([" dog"], add_special_tokens=False)["input_ids"]
    (found,) = embeddings_of_names(model, processor, ["dog"])
    torch.testing.assert_close(cosine_similarity(found, embeddings[ids].mean(0), dim=0), torch.tensor(1.0))
    torch.testing.assert_close(found.norm(), embeddings.norm(dim=-1).mean())


def test_names_are_heard_in_the_projector(processor):
    """Of vectors that it has not seen; random weights and names are a harder case than trained ones."""
    setok = named_setok(NAMES, image_size=24, grid_size=6)
    model = tiny_setokim(processor, setok=copy.deepcopy(setok))
    projector = model.model.multi_modal_projector
    before = copy.deepcopy(projector)
    begin_with_names(model, setok, processor, pixels_of(processor))
    names = embeddings_of_names(model, processor, NAMES)
    tokens = torch.randn(200, setok.config.hidden_size)
    with torch.no_grad():
        wanted = setok.token_concept_logits(model.model.denormalize_tokens(tokens)[None])[0].softmax(-1) @ names
        added = projector(tokens) - before(tokens)
    assert cosine_similarity(added, wanted).mean() > 0.9
    assert not any(parameter.grad is not None for parameter in model.model.setok.parameters())


def test_a_setok_without_names_is_refused(processor):
    setok = tiny_setok()
    setok.config.concept_names = None
    with pytest.raises(ValueError, match="names_in_projector needs a SeTok with a concept bank"):
        begin_with_names(tiny_setokim(processor), setok, processor, pixels_of(processor))
