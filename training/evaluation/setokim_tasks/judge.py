"""What SeTok sees in pictures: it judges what a Setokim paints."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from modeling_setok import SetokForPreTraining, SetokModelOutput
from processing import SetokImageProcessor


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

    def scores(self, pictures: list[Image.Image]) -> Tensor:
        """(B, V) float32 on the CPU: how much each concept of the bank is in each picture."""
        outputs = self._tokens(pictures)
        return self.setok.concept_logits(outputs.last_hidden_state, outputs.token_mask).float().cpu()

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
