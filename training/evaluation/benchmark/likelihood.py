"""Which of several answers a language model takes for the most likely."""

import inspect
from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def most_likely(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    inputs: Mapping[str, torch.Tensor],
    choices: Sequence[Sequence[str]],
) -> list[str]:
    """Of each row's choices the one that is the most likely to follow; of several the first.

    Args:
        inputs: of a batch of prompts, padded on the right, so that every position is what it is without padding.
        choices: of each row.

    Raises:
        ValueError: a row without choices, or a choice of no tokens.
    """
    scores = log_likelihoods(model, tokenizer, inputs, choices)
    return [row[max(range(len(row)), key=values.__getitem__)] for row, values in zip(choices, scores, strict=True)]


@torch.no_grad()
def log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    inputs: Mapping[str, torch.Tensor],
    choices: Sequence[Sequence[str]],
) -> list[list[float]]:
    """For each choice of each row the sum of the log-probabilities of its tokens after the prompt; arguments as above.

    Choices that differ in their last token alone, as letters do, share a run of the model.
    """
    ids = [[tokenizer(choice, add_special_tokens=False)["input_ids"] for choice in row] for row in choices]
    for row, tokens in zip(choices, ids, strict=True):
        if not row or not all(tokens):
            raise ValueError(f"Each row needs choices that are text, got {list(row)!r}.")
    beginnings = [sorted({tuple(tokens[:-1]) for tokens in row}) for row in ids]
    scores = [[0.0] * len(row) for row in ids]
    for run in range(max(map(len, beginnings))):
        current = [row[min(run, len(row) - 1)] for row in beginnings]
        for number, log_probabilities in enumerate(_after_prompt(model, inputs, current)):
            for place, tokens in enumerate(ids[number]):
                if tuple(tokens[:-1]) == current[number]:
                    steps = torch.tensor(tokens, device=log_probabilities.device)
                    scores[number][place] = log_probabilities.gather(1, steps[:, None]).sum().item()
    return scores


def _after_prompt(model, inputs: Mapping, beginnings: Sequence[tuple[int, ...]]) -> list[torch.Tensor]:
    """For each row the log-probabilities (n + 1, V) float32 after its prompt and each of n tokens behind it."""
    prompt, mask = inputs["input_ids"], inputs["attention_mask"]
    lengths, most = mask.sum(1).tolist(), max(map(len, beginnings))
    # what has a value for each token, such as token types, has the one of text for those of the answer: 0
    extended = {
        name: torch.nn.functional.pad(value, (0, most))
        if isinstance(value, torch.Tensor) and value.shape == prompt.shape
        else value
        for name, value in inputs.items()
    }
    for row, (length, beginning) in enumerate(zip(lengths, beginnings, strict=True)):
        extended["input_ids"][row, length : length + len(beginning)] = torch.tensor(beginning, dtype=prompt.dtype)
        extended["attention_mask"][row, length : length + len(beginning)] = 1
    spans = [range(length - 1, length + len(tokens)) for length, tokens in zip(lengths, beginnings, strict=True)]
    positions, keep = list(range(prompt.shape[1] + most)), {}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:  # of long prompts, all would be many
        positions = sorted({position for span in spans for position in span})
        keep = {"logits_to_keep": torch.tensor(positions, device=prompt.device)}
    logits = model(**extended, **keep, use_cache=False).logits
    place = {position: number for number, position in enumerate(positions)}
    return [
        logits[row, [place[position] for position in span]].float().log_softmax(-1) for row, span in enumerate(spans)
    ]
