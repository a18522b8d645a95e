"""Makes models without a checkpoint folder: new ones, empty ones, and of given tensors, with training-time numerics."""

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from minitron.artifacts.json_files import JsonObject, write_json
from minitron.errors import CheckpointError, MinitronError
from minitron.models.config import equal_widths_config
from minitron.models.shape import HybridShape
from minitron.runtime.block_widths import narrow_ffns

# Code beside a checkpoint or of the hub is never run. Left to itself transformers asks on a terminal.
NO_CODE: Mapping[str, bool] = {"trust_remote_code": False}
# Keys of a configuration by which transformers fetches kernels from the hub, where their package is installed.
CODE_KEYS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
# What values of another type or size are tripped over by; memory that runs out is none of these.
MISTAKES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    RecursionError,
    TypeError,
    ValueError,
)


def new_model(config: PretrainedConfig, *, seed: int, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A freshly initialized model of a configuration, with the same time-step limit as a loaded one."""
    quiet_kernel_notes("cpu")
    torch.manual_seed(seed)
    with quiet_transformers():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, **NO_CODE)
    return settled(model)


def empty_like(like: PreTrainedModel, config: Mapping[str, object], shape: HybridShape) -> PreTrainedModel:
    """A model without weights (on torch's meta device), its tables that no file holds where a loaded one's are.

    Args:
        like: A loaded model, whose dtype it takes.
        config: The new model's `config.json`.
        shape: Its shape.
    """
    model = meta_model(build_config(config, shape), shape, like.dtype)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(like.device))
    return model


def assemble_model(
    like: PreTrainedModel, config: Mapping[str, object], shape: HybridShape, state: Mapping[str, torch.Tensor]
) -> PreTrainedModel:
    """A model made of given tensors, which it takes over, in evaluation mode, its Mamba time steps limited.

    Args:
        like: A model on the device where the new one shall be.
        config: The new model's `config.json`.
        shape: Its shape.
        state: Every tensor by its name in memory.

    Raises:
        MinitronError: A tensor is missing, left over or of another shape.
    """
    return assemble_on(config, shape, state, like.device)


def assemble_on(
    config: Mapping[str, object], shape: HybridShape, state: Mapping[str, torch.Tensor], device: torch.device | str
) -> PreTrainedModel:
    """The same on a device."""
    model = meta_model(build_config(config, shape), shape, next(iter(state.values())).dtype)
    family, whole = shape.family, dict(state)
    if shape.head_tensor != family.head:
        whole[family.name_in_memory(family.head)] = state[family.name_in_memory(family.embeddings)]
    try:
        model.load_state_dict(whole, strict=True, assign=True)
    except RuntimeError as error:
        raise MinitronError(f"the tensors must make a whole model: {error}") from error
    model.tie_weights()
    placed: PreTrainedModel = model.to(device)
    return placed


def build_config(config: Mapping[str, object], shape: HybridShape) -> PretrainedConfig:
    """Transformers' configuration of a `config.json` and of the shape that it describes.

    Raises:
        CheckpointError: transformers does not take a value that the shape does not depend on.
    """
    plain = {key: value for key, value in equal_widths_config(config, shape).items() if key not in CODE_KEYS}
    with tempfile.TemporaryDirectory() as folder:  # transformers spells infinity its own way in files
        write_json(Path(folder) / "config.json", plain)
        try:
            return _sized(AutoConfig.from_pretrained(folder, local_files_only=True, **NO_CODE), shape)
        except Exception as error:  # a value of another type makes transformers raise whatever it trips over
            raise _not_taken(error) from error


def config_of(model: PreTrainedModel) -> JsonObject:
    """A loaded model's configuration as transformers would write it into `config.json`."""
    written: JsonObject = json.loads(model.config.to_json_string(use_diff=False))
    return written


def settled(model: PreTrainedModel) -> PreTrainedModel:
    """Puts a model into eval mode with training-time numerics, in place."""
    set_time_step_limit(model)
    if model.device.type != "cuda" and model._can_set_experts_implementation():
        # The grouped product takes only widths of whole 16 bytes; a loop over experts takes any.
        model.set_experts_implementation("eager")
    return model.eval()


def set_time_step_limit(model: nn.Module) -> None:
    """Sets each Mamba mixer's limit on dt from the configuration's `time_step_limit`, in place.

    transformers 5.23 floors dt at `time_step_min` in prefill but not in decoding; checkpoints are trained without it.
    """
    config: Any = model.config
    mixers: list[Any] = [module for module in model.modules() if hasattr(module, "time_step_limit")]
    for mixer in mixers:
        mixer.time_step_limit = tuple(float(bound) for bound in config.time_step_limit)


def quiet_kernel_notes(device: str) -> None:
    """Silences advice to install Mamba kernels, on CPUs."""
    # There are no Mamba kernels for CPUs, so the advice to install them is noise there; on CUDA it is worth reading.
    if torch.device(device).type == "cpu":
        logging.getLogger("transformers.integrations.hub_kernels").setLevel(logging.ERROR)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences transformers' progress bar, its notes on missing kernels, and nothing else of the process."""
    verbosity, progress = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if progress:
            transformers_logging.enable_progress_bar()


@contextmanager
def telling_what_is_not_taken() -> Iterator[None]:
    """Says in one line that a configuration has a value that transformers trips over as it makes the model.

    Raises:
        CheckpointError: It did.
    """
    try:
        yield
    except MISTAKES as error:
        raise _not_taken(error) from error


def _not_taken(error: Exception) -> CheckpointError:
    return CheckpointError(
        f"config.json and generation_config.json must be such that transformers makes the model, it does not: "
        f"{type(error).__name__}: {error}"
    )


def meta_model(config: PretrainedConfig, shape: HybridShape, dtype: torch.dtype) -> PreTrainedModel:
    """A model on torch's meta device, its FFNs as wide as the shape says of each block."""
    quiet_kernel_notes("cpu")
    # Tables that no file holds, such as rotary frequencies, are made for real.
    with quiet_transformers(), init_empty_weights(include_buffers=False), telling_what_is_not_taken():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, **NO_CODE)
        narrow_ffns(model, shape)
    model.tie_weights()
    return settled(model)


def _sized(config: PretrainedConfig, shape: HybridShape) -> PretrainedConfig:
    for key, size in shape.config_sizes.items():
        setattr(config, key, size)  # transformers takes defaults for spellings that it does not know
    return config
