"""Models in fewer bits, where the packages for it are installed."""

import importlib.util

import pytest
from transformers import TorchAoConfig

needs_bitsandbytes = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")


def torchao_int8(**options) -> TorchAoConfig:
    return TorchAoConfig(pytest.importorskip("torchao.quantization").Int8WeightOnlyConfig(), **options)
