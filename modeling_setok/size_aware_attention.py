"""Attention that counts a concept token as often as the patches that it stands for ("proportional attention" of ToMe).

Without training, a token for 200 patches would be one key among six. The logarithm of its number of patches, added to
the attention logits of its key, gives it their weight: exp(qk + log n) = n exp(qk).

The bias is part of the float mask that transformers makes once for all layers, so that it reaches each of them, also
under gradient checkpointing, while decoding with a cache, and in windows.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

# Models loaded by remote code each have a copy of this file in one process: each registers its own
SIZE_AWARE_ATTENTION = f"size_aware_sdpa_{zlib.crc32(__name__.encode()):08x}"


class _KeySizes:
    def __init__(self, sizes: torch.Tensor):
        self.sizes = sizes
        self.were_used = False


_KEY_SIZES: ContextVar[_KeySizes | None] = ContextVar("key_sizes", default=None)


@contextmanager
def key_sizes(sizes: torch.Tensor) -> Iterator[_KeySizes]:
    """Masks that are made inside count key j of row b `sizes` (B, L) [b, j] times; keys after these, once.

    What it gives says afterwards whether a mask was made (`were_used`).
    """
    token = _KEY_SIZES.set(_KeySizes(sizes))
    try:
        yield _KEY_SIZES.get()
    finally:
        _KEY_SIZES.reset(token)


def _size_aware_mask(
    *,
    kv_length: int,
    kv_offset: int = 0,
    dtype: torch.dtype = torch.float32,
    allow_is_causal_skip: bool = True,
    **kwargs,
) -> torch.Tensor | None:
    """The bool mask of sdpa, or where key sizes are known the float mask (B, 1, q, kv) with their logarithms."""
    known = _KEY_SIZES.get()
    allow_is_causal_skip = allow_is_causal_skip and known is None
    mask = sdpa_mask(
        kv_length=kv_length, kv_offset=kv_offset, dtype=dtype, allow_is_causal_skip=allow_is_causal_skip, **kwargs
    )
    if known is None:
        return mask
    known.were_used = True
    sizes = known.sizes[:, kv_offset : kv_offset + kv_length].to(mask.device)
    sizes = torch.nn.functional.pad(sizes, (0, kv_length - sizes.shape[1]), value=1)
    bias = sizes.clamp(min=1).log().to(dtype)[:, None, None, :]
    return torch.where(mask, bias, torch.finfo(dtype).min)


AttentionInterface.register(SIZE_AWARE_ATTENTION, sdpa_attention_forward)
AttentionMaskInterface.register(SIZE_AWARE_ATTENTION, _size_aware_mask)
