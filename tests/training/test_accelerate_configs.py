"""The accelerate configs: accelerate's own loader reads them, and its launcher builds what they say. FSDP2 shards a
model over two processes on CPU, DeepSpeed does where it is installed; both train as one process does."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin, launch
from accelerate.utils.dataclasses import get_module_class_from_name
from safetensors.torch import load_file
from torch.distributed.fsdp import StateDictType

from modeling_setok import SetokimConfig, SetokimForConditionalGeneration
from tests.script_testing import ROOT, assert_same_runs, copy_checkpoint, finish, losses
from tests.training.test_train_setok import tiny_recipe
from training import finetune_setokim, pretrain_setokim

FOLDER = ROOT / "training" / "recipes" / "accelerate"
CONFIGS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
SCRIPTS = {"pretrain": pretrain_setokim, "finetune": finetune_setokim, "lora": finetune_setokim}
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed; the test needs it"
)

engines = pytest.mark.parametrize(
    "name",
    [
        "fsdp2",
        pytest.param("deepspeed_zero2", marks=needs_deepspeed),
        pytest.param("deepspeed_zero3", marks=needs_deepspeed),
    ],
)


def launch_arguments(name: str, *options: str):
    """What `accelerate launch --config_file NAME.yaml OPTIONS script.py` makes of its arguments."""
    arguments = ["--config_file", str(FOLDER / f"{name}.yaml"), *options, "script.py"]
    arguments, defaults, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    return arguments


def launch_environment(name: str, *options: str) -> dict[str, str]:
    """The environment variables that this command sets for the script, beyond those that are there."""
    arguments = launch_arguments(name, *options)
    if arguments.use_deepspeed:
        _, environment = launch.prepare_deepspeed_cmd_env(arguments)
    else:
        environment = launch.prepare_multi_gpu_env(arguments)
    return {key: value for key, value in environment.items() if os.environ.get(key) != value}


@pytest.fixture
def environment(monkeypatch):
    def set_environment(name: str) -> None:
        for key, value in launch_environment(name).items():
            monkeypatch.setenv(key, value)

    return set_environment


@pytest.mark.parametrize("name", CONFIGS)
def test_accelerate_knows_every_key(name):
    """An unknown key at the top is refused by the loader; one below is an option that the launcher does not have."""
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    kinds = {"ddp": DistributedType.MULTI_GPU, "fsdp2": DistributedType.FSDP}
    kind = kinds.get(name.removesuffix("_multi_node"), DistributedType.DEEPSPEED)
    assert config.distributed_type == kind
    assert config.num_processes % config.num_machines == 0
    known = vars(launch_command_parser().parse_args(["script.py"]))
    assert (config.fsdp_config | config.deepspeed_config).keys() <= known.keys()
    assert config.mixed_precision is None  # the recipe's


@pytest.mark.parametrize("name", CONFIGS)
def test_the_command_line_takes_precedence(name):
    assert launch_arguments(name, "--num_processes", "4").num_processes == 4


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddp_multi_node", ""),
        ("fsdp2", "--num_machines 8 --num_processes 64 --main_process_ip 10.0.0.1 --main_process_port 29500"),
    ],
)
def test_each_machine_gives_its_rank(name, options):
    arguments = launch_arguments(name, "--machine_rank", "3", *options.split())
    launch.prepare_multi_gpu_env(arguments)
    assert (arguments.node_rank, arguments.nnodes, arguments.nproc_per_node) == (3, "8", "8")
    assert (arguments.rdzv_backend, arguments.rdzv_endpoint) == ("static", "10.0.0.1:29500")


def test_fsdp2_shards_the_layers_of_the_language_model_and_saves_whole_weights(environment):
    environment("fsdp2")
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.state_dict_type == StateDictType.FULL_STATE_DICT
    assert plugin.cpu_ram_efficient_loading is False
    with torch.device("meta"):
        model = SetokimForConditionalGeneration(SetokimConfig())
    (name,) = plugin.transformer_cls_names_to_wrap
    layer = get_module_class_from_name(model, name)
    layers = [path for path, module in model.named_modules() if isinstance(module, layer)]
    assert layers == [f"model.language_model.layers.{i}" for i in range(32)]


@needs_deepspeed
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_gets_its_stage(environment, stage):
    environment(f"deepspeed_zero{stage}")
    plugin = DeepSpeedPlugin()
    zero = plugin.deepspeed_config["zero_optimization"]
    assert zero["stage"] == stage and not plugin.zero3_init_flag
    assert zero["offload_optimizer"]["device"] == "none"
    assert bool(zero.get("stage3_gather_16bit_weights_on_model_save")) == (stage == 3)


def launch_on_cpu(name: str, script: Path, recipe: Path) -> subprocess.Popen:
    """Two processes with the environment that accelerate sets, by torchrun: accelerate starts only one on a CPU."""
    environment = os.environ | launch_environment(name, "--num_processes", "2")
    environment |= {"PYTHONPATH": str(ROOT), "ACCELERATE_TORCH_DEVICE": "cpu", "DS_ACCELERATOR": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
         str(ROOT / "tests" / "shard_on_cpu.py"), str(script), str(recipe)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("stage", SCRIPTS)
@engines
def test_two_processes_train_as_one_that_accumulates(setokim_recipe, setokim_folder, tmp_path, name, stage):
    """With a row for each, one process often has text alone, the other pictures or a mask. ZeRO-2 adds up gradients in
    the order in which they are made: it must be the same on all processes."""
    options = {
        "model_name_or_path": str(setokim_folder), "config": {"diffusion_loss_weight": 0.0}, "optim": "sgd",
        "per_device_train_batch_size": 1, "max_steps": 4, "save_steps": 2, "visual_learning_rate": 0.02,
        "activation_checkpointing": True,
    }  # fmt: skip
    if stage == "pretrain":
        options["trainable"] = ["model.multi_modal_projector", "model.language_model", "diffusion_head", "mask_decoder"]
        options |= {"setok_model_name_or_path": None, "text_config": None}
    if stage == "lora":
        options["lora"] = {"r": 4, "lora_alpha": 8}
    SCRIPTS[stage].main([str(setokim_recipe(stage, tmp_path / "one", gradient_accumulation_steps=2, **options))])
    recipe = setokim_recipe(stage, tmp_path / "two", use_cpu=False, ddp_backend="gloo", **options)
    script = Path(SCRIPTS[stage].__file__)
    finish(launch_on_cpu(name, script, recipe))
    one, two = tmp_path / "one" / "run", tmp_path / "two" / "run"
    for single, double in zip(losses(one), losses(two), strict=True):
        for entry in (single, double):
            entry.pop("diffusion_loss", None)  # each process draws its own noise
        assert double == pytest.approx(single, rel=1e-3)
    weights = "adapter_model.safetensors" if stage == "lora" else "model.safetensors"
    for folder in (two, two / "checkpoint-2"):
        single, double = (load_file(path / weights) for path in (one / folder.relative_to(two), folder))
        assert single.keys() == double.keys()
        for key, tensor in single.items():
            torch.testing.assert_close(double[key], tensor, rtol=1e-3, atol=1e-5)
    if stage == "lora":
        return
    assert sorted(path.name for path in two.glob("*.py")) == sorted(path.name for path in one.glob("*.py"))


@pytest.mark.slow
@engines
def test_a_sharded_run_goes_on_exactly(setokim_recipe, tmp_path, name):
    options = {"use_cpu": False, "ddp_backend": "gloo", "activation_checkpointing": True}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    script = Path(pretrain_setokim.__file__)
    finish(launch_on_cpu(name, script, setokim_recipe("pretrain", whole, **options)))
    copy_checkpoint(whole / "run", 2, killed)
    finish(launch_on_cpu(name, script, setokim_recipe("pretrain", killed, **options)))
    assert len(losses(killed / "run")) == 4
    assert_same_runs(killed / "run", whole / "run")


@pytest.mark.slow
def test_setok_says_that_it_wants_ddp(tmp_path):
    recipe = tiny_recipe(tmp_path, use_cpu=False, ddp_backend="gloo", bf16=False)
    process = launch_on_cpu("fsdp2", ROOT / "training" / "train_setok.py", recipe)
    output, _ = process.communicate(timeout=300)
    assert process.returncode != 0 and "accelerate/ddp.yaml" in output
