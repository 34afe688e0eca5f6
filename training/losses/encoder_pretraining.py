"""The step before stage 0 for those who have no pretrained vision encoder: what SigLIP's training is to the paper."""

import torch
import torch.nn.functional as F
from torch import nn

from modeling_setok import SetokConfig, SetokForPreTraining, SetokForPreTrainingOutput
from modeling_setok.concept_contrastive import unit

PIXELS = 4  # each patch paints this many pixels on a side


class SetokEncoderPretraining(SetokForPreTraining):
    """Trains only the encoder of a SeTok, without clustering, merger and detokenizer, many times faster than all of it.

    The image of the contrastive loss is the mean of its patch embeddings, so that patches without content learn to be
    short; a linear layer paints each patch's own pixels, so that colours are not forgotten: tokens of an encoder that
    only names objects cannot be painted from (the paper's "Impact of Unfreeze Vision Encoder").
    """

    def __init__(self, config: SetokConfig):
        super().__init__(config)
        self.pixel_head = nn.Linear(self.setok.token_merger.patch_norm.normalized_shape[0], 3 * PIXELS**2)
        self.post_init()
        merger = self.setok.token_merger
        used = [self.setok.vision_encoder, merger.patch_norm, merger.patch_projection, self.visual_projection]
        used += [self.text_projection, self.pixel_head]
        self.requires_grad_(False)  # DDP waits for the gradient of every parameter that is trained
        self.logit_scale.requires_grad_(True)
        for part in used:
            part.requires_grad_(True)
        self.train()

    def forward(self, pixel_values: torch.Tensor, concept_ids: torch.LongTensor) -> SetokForPreTrainingOutput:
        """pixel_values (B, 3, H, W) and concept_ids (B, K) as in `SetokForPreTraining.forward`."""
        patch_embeddings, (height, width) = self.setok.get_patch_embeddings(pixel_values)
        image_features = unit(self.visual_projection(self.setok.token_merger.project(patch_embeddings.mean(1))))
        contrastive_loss = self.contrastive_loss(image_features, concept_ids)
        target = F.interpolate(pixel_values, (PIXELS * height, PIXELS * width), mode="area")
        target = F.pixel_unshuffle(target, PIXELS).flatten(2).transpose(1, 2)
        reconstruction_loss = F.mse_loss(self.pixel_head(patch_embeddings).float(), target)
        config = self.config
        return SetokForPreTrainingOutput(
            loss=config.reconstruction_weight * reconstruction_loss + config.contrastive_weight * contrastive_loss,
            reconstruction_loss=reconstruction_loss,
            contrastive_loss=contrastive_loss,
            image_features=image_features,
        )
