"""What SeTok sees in pictures: it judges what a Setokim paints."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modeling_setok import SetokForPreTraining, SetokModelOutput
from processing import SetokImageProcessor


class Seen(NamedTuple):
    """What a judge sees in B pictures of the V concepts of its bank, float32 on the CPU.

    Attributes:
        scores: (B, V), how much a concept is in a picture.
        places: (B, V, 2), where it would be, (x, y) from 0 to 1: the middle of the patches whose token speaks most for
            it.
    """

    scores: Tensor
    places: Tensor


class Judge:
    """A SeTok that looks at pictures.

    Args:
        setok: its concept bank must have `names`.
        image_processor: of that SeTok.
        names: of all objects in the pictures.

    Raises:
        ValueError: names that the concept bank lacks.
    """

    def __init__(self, setok: SetokForPreTraining, image_processor: SetokImageProcessor, names: Sequence[str]):
        self.setok, self.image_processor = setok, image_processor
        self.concept_index = {name: index for index, name in enumerate(setok.config.concept_names or ())}
        if lacking := sorted(set(names) - self.concept_index.keys()):
            raise ValueError(
                f"SeTok's concept bank lacks {lacking}; choose a SeTok that was trained on the scenes' names."
            )

    def look(self, pictures: list[Image.Image]) -> Seen:
        outputs = self._tokens(pictures)
        scores = self.setok.concept_logits(outputs.last_hidden_state, outputs.token_mask)
        logits = self.setok.token_concept_logits(outputs.last_hidden_state)
        speaks_most = logits.masked_fill(~outputs.token_mask.bool()[..., None], float("-inf")).argmax(1)
        rows, columns = outputs.grid_size
        y, x = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in (rows, columns)), indexing="ij")
        of_token = outputs.cluster_ids.cpu()[:, None] == torch.arange(logits.shape[1])[:, None]  # (B, C, N)
        middles = of_token.float() @ torch.stack([x, y], dim=-1).reshape(-1, 2)
        middles = middles / of_token.sum(-1, keepdim=True).clamp(min=1)
        return Seen(scores.float().cpu(), middles.gather(1, speaks_most.cpu()[..., None].expand(-1, -1, 2)))

    def repaint(self, pictures: list[Image.Image]) -> list[Image.Image]:
        """The reconstructions, in the sizes of the pictures."""
        outputs = self._tokens(pictures)
        painted = self.setok.detokenize(outputs.last_hidden_state, outputs.token_mask)
        return self.image_processor.postprocess(painted, [(picture.height, picture.width) for picture in pictures])

    def clusters(self, pictures: list[Image.Image]) -> list[np.ndarray]:
        """Per picture the token (h, w) of each patch."""
        outputs = self._tokens(pictures)
        return list(outputs.cluster_ids.cpu().numpy().reshape(-1, *outputs.grid_size))

    def _tokens(self, pictures: list[Image.Image]) -> SetokModelOutput:
        pixel_values = self.image_processor(pictures, return_tensors="pt")["pixel_values"]
        return self.setok.setok(pixel_values.to(self.setok.device, self.setok.dtype))
