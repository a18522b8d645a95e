"""Loading a checkpoint into plain transformers, with the settings that make its numbers the trained ones."""

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
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from minitron.artifacts.json_files import JsonObject, write_json
from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.checkpoints.names import gather_state
from minitron.checkpoints.places import model_places
from minitron.checkpoints.weights import open_weights
from minitron.errors import MinitronError
from minitron.models.config import equal_widths_config
from minitron.models.shape import HybridShape
from minitron.runtime.block_widths import config_for_tokenizer, narrow_ffns
from minitron.runtime.key_mapping import key_mapping
from minitron.runtime.special_tokens import fill_special_tokens

logger = logging.getLogger(__name__)
LOADING = {"output_loading_info": True, "local_files_only": True}


def load_model(folder: Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The checkpoint's model in evaluation mode, its Mamba time steps limited as in training.

    On CPU the default is fp32: bf16 products are several times slower there without AMX.

    Raises:
        MinitronError: The folder is not a whole checkpoint of a known family, or tensors were missed or made up.
    """
    checkpoint = open_checkpoint(folder)
    check_device(device)
    if checkpoint.extras:
        logger.info(
            "%s: %d tensors of layers that predict further tokens are not loaded", folder, len(checkpoint.extras)
        )
    _quiet_kernel_notes(device)
    if checkpoint.shape.block_widths:
        return _load_by_block(checkpoint, device, dtype)
    with _quiet_transformers():
        config = _read_config(checkpoint)
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, key_mapping=key_mapping(checkpoint), **LOADING
        )
    faults = {kind: names for kind, names in info.items() if names and kind != "unexpected_keys"}
    if faults:
        raise MinitronError(f"transformers must load {folder} without faults, it reports {faults}")
    loaded: PreTrainedModel = _settled(model.to(device))
    return loaded


def empty_model(checkpoint: Checkpoint) -> PreTrainedModel:
    """The checkpoint's model without its weights (on torch's meta device), in evaluation mode, time steps limited."""
    return _meta_model(_read_config(checkpoint), checkpoint.shape, torch.float32)


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
    return _assembled(config, shape, state, like.device)


def _assembled(
    config: Mapping[str, object], shape: HybridShape, state: Mapping[str, torch.Tensor], device: torch.device | str
) -> PreTrainedModel:
    model = _meta_model(build_config(config, shape), shape, next(iter(state.values())).dtype)
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


def check_device(device: str) -> None:
    """Refuses a device that torch cannot use here.

    Raises:
        MinitronError: The name is not a torch device, or this machine or this build of torch has none such.
    """
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise MinitronError(f"device must be one that torch knows, such as cpu or cuda:0, got {device!r}") from error
    count = torch.cuda.device_count() if kind == "cuda" and torch.cuda.is_available() else 0
    if kind == "cuda" and (torch.device(device).index or 0) >= count:
        found = (
            f"it sees {count} CUDA devices, got {device}" if count else f"got {device} and torch sees no CUDA device"
        )
        raise MinitronError(f"device must be one that torch can use here, {found}")
    if kind not in ("cpu", "cuda"):
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:  # a kind that torch was built without
            reason = str(error).splitlines()[0]
            raise MinitronError(f"device must be one that torch can use here, got {device}: {reason}") from error


def new_model(config: PretrainedConfig, *, seed: int, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A freshly initialized model of a configuration, with the same time-step limit as a loaded one."""
    _quiet_kernel_notes("cpu")
    torch.manual_seed(seed)
    with _quiet_transformers():
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return _settled(model)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, padding on the left as generation needs; what it does not name is filled in.

    Raises:
        MinitronError: The folder has no tokenizer.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, padding_side="left", config=config_for_tokenizer(folder)
        )
    except Exception as error:  # a malformed file makes transformers and tokenizers raise whatever they trip over
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise MinitronError(f"a checkpoint must bring its tokenizer, {folder} has none that loads: {reason}") from error
    fill_special_tokens(tokenizer, folder)
    return tokenizer


def set_time_step_limit(model: nn.Module) -> None:
    """Sets each Mamba mixer's limit on dt from the configuration's `time_step_limit`, in place.

    transformers 5.23 floors dt at `time_step_min` in prefill but not in decoding; checkpoints are trained without it.
    """
    config: Any = model.config
    mixers: list[Any] = [module for module in model.modules() if hasattr(module, "time_step_limit")]
    for mixer in mixers:
        mixer.time_step_limit = tuple(float(bound) for bound in config.time_step_limit)


def config_of(model: PreTrainedModel) -> JsonObject:
    """A loaded model's configuration as transformers would write it into `config.json`."""
    written: JsonObject = json.loads(model.config.to_json_string(use_diff=False))
    return written


def count_params(model: nn.Module) -> int:
    """Parameters of a loaded model as its files hold them: tied ones once, and what is stored though never trained."""
    stored = {id(tensor): tensor.numel() for tensor in model.state_dict(keep_vars=True).values()}
    return sum(stored.values())


def _load_by_block(checkpoint: Checkpoint, device: str, dtype: torch.dtype) -> PreTrainedModel:
    # transformers' own classes have no such model, and those beside the checkpoint are code that is not run here.
    with open_weights(checkpoint) as read:
        stored = ((name, read(name).to(dtype)) for name in checkpoint.tensors)
        state = gather_state(stored, model_places(checkpoint.shape))
    return _assembled(checkpoint.config, checkpoint.shape, state, device)


def _meta_model(config: PretrainedConfig, shape: HybridShape, dtype: torch.dtype) -> PreTrainedModel:
    _quiet_kernel_notes("cpu")
    # Tables that no file holds, such as rotary frequencies, are made for real.
    with _quiet_transformers(), init_empty_weights(include_buffers=False):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
        narrow_ffns(model, shape)
    model.tie_weights()
    return _settled(model)


def _settled(model: PreTrainedModel) -> PreTrainedModel:
    """Puts a model into eval mode with training-time numerics, in place."""
    set_time_step_limit(model)
    if model.device.type != "cuda" and model._can_set_experts_implementation():
        # The grouped product takes only widths of whole 16 bytes; a loop over experts takes any.
        model.set_experts_implementation("eager")
    return model.eval()


def _read_config(checkpoint: Checkpoint) -> PretrainedConfig:
    return build_config(checkpoint.config, checkpoint.shape)


def build_config(config: Mapping[str, object], shape: HybridShape) -> PretrainedConfig:
    """Transformers' configuration of a `config.json` and of the shape that it describes."""
    with tempfile.TemporaryDirectory() as folder:  # transformers spells infinity its own way in files
        write_json(Path(folder) / "config.json", equal_widths_config(config, shape))
        return _sized(AutoConfig.from_pretrained(folder, local_files_only=True), shape)


def _sized(config: PretrainedConfig, shape: HybridShape) -> PretrainedConfig:
    for key, size in shape.config_sizes.items():
        setattr(config, key, size)  # transformers takes defaults for spellings that it does not know
    return config


def _quiet_kernel_notes(device: str) -> None:
    # There are no Mamba kernels for CPUs, so the advice to install them is noise there; on CUDA it is worth reading.
    if torch.device(device).type == "cpu":
        logging.getLogger("transformers.integrations.hub_kernels").setLevel(logging.ERROR)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
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
