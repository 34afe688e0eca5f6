"""Runs a script whose weights are sharded, on CPU: `python shard_on_cpu.py SCRIPT ARGUMENT ...` under torchrun.

Two things that hold on GPUs alone are taken for granted by the libraries:

- accelerate shards with FSDP only over accelerators, though PyTorch does over CPUs, too: it is told that it has GPUs;
- DeepSpeed gathers the weights that it saves with `tensor.cpu()`, which on a CPU is no copy: here it is one.
"""

import os
import runpy
import sys

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType

if "ACCELERATE_USE_FSDP" in os.environ:
    PartialState._prepare_backend = lambda *args: ("gloo", DistributedType.MULTI_GPU)
else:
    torch.Tensor.cpu = lambda self: self.detach().clone()
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
