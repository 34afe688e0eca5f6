"""How much of what a Setokim is trained on is text and how much is vision, in rows and in tokens."""

from collections.abc import Mapping

import torch
from torch import nn

from processing import SetokimProcessor

AMOUNTS = ("rows", "vision_rows", "tokens", "vision_tokens")


class TokenShares:
    """Counts the rows and tokens of a model's training. A row with an image or a mask is one of vision, as are the
    visual tokens of each; all else is text, the marks around images included.

    Args:
        model: a Setokim, or what wraps one. Its projector makes each visual token once.
        processor: of the rows.
        device: where to count.
    """

    def __init__(self, model: nn.Module, processor: SetokimProcessor, device: torch.device):
        self.visual_ids = processor.image_token_id, processor.mask_token_id
        self.amounts = torch.zeros(len(AMOUNTS), dtype=torch.float64, device=device)
        self.has_images = False
        projector = next(part for name, part in model.named_modules() if name.split(".")[-1] == "multi_modal_projector")
        projector.register_forward_hook(self._note_visual_tokens)

    def note(self, inputs: Mapping[str, torch.Tensor]) -> None:
        """Takes note of a batch, before the model sees it."""
        ids = inputs["input_ids"]
        is_visual = (ids == self.visual_ids[0]) | (ids == self.visual_ids[1])
        # Without any the projector is run for its gradient alone. Nothing here waits for a device.
        self.has_images = not {"pixel_values", "mm_encoder_outputs"}.isdisjoint(inputs)
        self.amounts[0] += len(ids)
        self.amounts[1] += is_visual.any(1).sum()
        self.amounts[2] += inputs["attention_mask"].sum() - is_visual.sum()

    def _note_visual_tokens(self, projector: nn.Module, args: tuple, output: torch.Tensor) -> None:
        if projector.training and self.has_images:
            self.amounts[2:] += len(output)

    def shares(self, amounts: torch.Tensor) -> dict[str, float]:
        """Vision's shares of such `amounts`, which may be summed over processes."""
        found = dict(zip(AMOUNTS, amounts.tolist(), strict=True))
        return {f"vision_{name}": found[f"vision_{name}"] / found[name] for name in ("rows", "tokens") if found[name]}
