"""A projector that begins with what SeTok knows: the name of each token.

Trained beside the language model alone, a projector learns names anew, from the pictures of the captions, and forgets
much of what SeTok would tell of other pictures (training/LOG.md).
"""

import copy
from collections.abc import Iterable

import torch
from torch.nn.functional import normalize

from modeling_setok import SetokForPreTraining, SetokimForConditionalGeneration
from processing import SetokimProcessor

STEPS, BATCH_SIZE, LEARNING_RATE = 1000, 512, 3e-3


@torch.no_grad()
def embeddings_of_names(
    model: SetokimForConditionalGeneration, processor: SetokimProcessor, names: list[str]
) -> torch.Tensor:
    """(V, hidden): of each name the mean of its words' embeddings, as long as an embedding is in the mean."""
    embeddings = model.get_input_embeddings().weight
    ids = processor.tokenizer([f" {name}" for name in names], add_special_tokens=False)["input_ids"]
    means = torch.stack([embeddings[of_name].mean(0) for of_name in ids])
    return normalize(means, dim=-1) * embeddings.norm(dim=-1).mean()


def begin_with_names(
    model: SetokimForConditionalGeneration,
    setok: SetokForPreTraining,
    processor: SetokimProcessor,
    pixels: Iterable[torch.Tensor],
) -> None:
    """Has the projector of a new Setokim add, to what it gives of a visual token, the embedding of its name: the mean
    over SeTok's concept bank, weighed by the probabilities that SeTok gives each name of the token.

    SeTok answers for any vector, so few pictures will do: the projector learns from their tokens under noise.

    Args:
        model: calibrated, with the projector as it was made.
        setok: the SeTok that it was made of.
        pixels: batches (B, 3, H, W) of the image processor.

    Raises:
        ValueError: SeTok knows no names.
    """
    if not setok.config.concept_names:
        raise ValueError("names_in_projector needs a SeTok with a concept bank, and this one has no concept_names.")
    projector = model.model.multi_modal_projector
    names = embeddings_of_names(model, processor, setok.config.concept_names)
    with torch.no_grad():
        seen = [model.model.get_image_features(batch.to(model.input_device)).visual_tokens for batch in pixels]
    tokens = torch.cat([tokens for of_batch in seen for tokens in of_batch])
    begun, length = copy.deepcopy(projector), names.norm(dim=-1).mean()
    optimizer = torch.optim.AdamW(projector.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=STEPS)
    for _ in range(STEPS):
        batch = tokens[torch.randint(len(tokens), (BATCH_SIZE,), device=tokens.device)]
        batch = batch + torch.rand_like(batch[:, :1]) * torch.randn_like(batch)
        with torch.no_grad():
            logits = setok.token_concept_logits(model.model.denormalize_tokens(batch)[None])[0]
            wanted = begun(batch) + logits.softmax(-1) @ names
        loss = ((projector(batch) - wanted) / length).square().sum(-1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()  # last: no gradient stays for the training that follows
        schedule.step()
