"""A Setokim composed of a trained SeTok and any causal language model."""

import torch
from torch import nn
from transformers.modeling_utils import PreTrainedModel

from .configuration_setokim import SPECIAL_TOKEN_IDS, SetokimConfig
from .modeling_setok import SetokForPreTraining


class SetokimCompositionMixin:
    """How a `SetokimForConditionalGeneration` is made of parts that exist already."""

    @classmethod
    def from_parts(cls, setok: SetokForPreTraining, language_model: PreTrainedModel, processor, **kwargs):
        """A Setokim of trained parts; projector, diffusion head and mask decoder start fresh.

        Embeddings for the processor's new tokens are added, and tied ones stay tied. Call `model.calibrate` before
        training. The parts' weights are taken over, not copied.

        Args:
            setok: trained SeTok.
            language_model: any causal language model whose head is a linear map, such as `AutoModelForCausalLM` loads.
            processor: a `SetokimProcessor` around that model's tokenizer (see its `from_parts`).
            kwargs: values of `SetokimConfig`, such as `diffusion_config={"hidden_size": 512}`.

        Raises:
            ValueError: the language model changes its logits after the head, or has an input or head of another kind.
        """
        vocab_size = max(len(processor.tokenizer), language_model.config.get_text_config().vocab_size)
        if vocab_size > language_model.get_input_embeddings().num_embeddings:
            language_model.resize_token_embeddings(vocab_size)
        _check_linear_head(language_model)
        config = SetokimConfig(
            vision_config=setok.config,
            text_config=language_model.config,
            **{name: getattr(processor, name) for name in SPECIAL_TOKEN_IDS},
            **kwargs,
        )
        with torch.device("meta"):
            model = cls(config)
        statistics = model.model.token_statistics
        for part in (model.model.multi_modal_projector, model.diffusion_head, model.mask_decoder, statistics):
            part.to_empty(device=language_model.device)
            part.apply(getattr(part, "_init_weights", model._init_weights))
            part.to(torch.float32 if part is statistics else language_model.dtype)
        model.model.setok = setok.setok.to(language_model.device)
        model.detokenizer = setok.detokenizer.to(language_model.device)
        model.model.language_model = language_model.base_model
        model.lm_head = language_model.get_output_embeddings()
        model.tie_weights()
        model.generation_config = language_model.generation_config
        model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
        model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
        model.freeze_parts()
        return model.eval()


@torch.no_grad()
def _check_linear_head(language_model: PreTrainedModel) -> None:
    """Raises unless logits = head(hidden state): then the language model inside Setokim answers as it did alone."""
    head = language_model.get_output_embeddings()
    message = f"{type(language_model).__name__} cannot be Setokim's language model: "
    if type(head) is not nn.Linear or head.bias is not None:
        raise ValueError(f"{message}its output head must be a linear layer without bias, got {head}.")
    training = language_model.training
    language_model.eval()
    ids = torch.arange(4, device=language_model.device)[None] % head.out_features
    hidden = language_model.base_model(input_ids=ids).last_hidden_state
    same = torch.equal(head(hidden), language_model(input_ids=ids).logits.to(hidden.dtype))
    language_model.train(training)
    if not same:
        raise ValueError(f"{message}it changes its logits after the output head (scaling or capping).")
