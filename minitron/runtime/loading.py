"""Loading a checkpoint into plain transformers, with the settings that make its numbers the trained ones."""

import logging
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.errors import MinitronError
from minitron.runtime.block_widths import config_for_tokenizer
from minitron.runtime.building import (
    NO_CODE,
    build_config,
    meta_model,
    quiet_kernel_notes,
    quiet_transformers,
    settled,
    telling_what_is_not_taken,
)
from minitron.runtime.devices import check_device
from minitron.runtime.key_mapping import key_mapping
from minitron.runtime.shards import read_weights
from minitron.runtime.special_tokens import fill_special_tokens

logger = logging.getLogger(__name__)
LOADING = {"output_loading_info": True, "local_files_only": True, **NO_CODE}


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
    quiet_kernel_notes(device)
    if checkpoint.shape.block_widths:
        return _load_by_block(checkpoint, device, dtype)
    config = _read_config(checkpoint)
    with quiet_transformers(), telling_what_is_not_taken():
        model, info = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, key_mapping=key_mapping(checkpoint), **LOADING
        )
    faults = {kind: names for kind, names in info.items() if names and kind != "unexpected_keys"}
    if faults:
        raise MinitronError(f"transformers must load {folder} without faults, it reports {faults}")
    loaded: PreTrainedModel = settled(model.to(device))
    return loaded


def empty_model(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The checkpoint's model without its weights (on torch's meta device), in evaluation mode, time steps limited."""
    return meta_model(_read_config(checkpoint), checkpoint.shape, dtype)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, padding on the left as generation needs; what it does not name is filled in.

    Raises:
        MinitronError: The folder has no tokenizer.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, padding_side="left", config=config_for_tokenizer(folder), **NO_CODE
        )
    except Exception as error:  # a malformed file makes transformers and tokenizers raise whatever they trip over
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise MinitronError(f"a checkpoint must bring its tokenizer, {folder} has none that loads: {reason}") from error
    fill_special_tokens(tokenizer, folder)
    return tokenizer


def count_params(model: nn.Module) -> int:
    """Parameters of a loaded model as its files hold them: tied ones once, and what is stored though never trained."""
    stored = {id(tensor): tensor.numel() for tensor in model.state_dict(keep_vars=True).values()}
    return sum(stored.values())


def _load_by_block(checkpoint: Checkpoint, device: str, dtype: torch.dtype) -> PreTrainedModel:
    # transformers' own classes have no such model, and those beside the checkpoint are code that is not run here.
    model = empty_model(checkpoint, dtype)
    read_weights(model, checkpoint, device=torch.device(device))
    loaded: PreTrainedModel = model.to(device)
    return loaded


def _read_config(checkpoint: Checkpoint) -> PretrainedConfig:
    return build_config(checkpoint.config, checkpoint.shape)
