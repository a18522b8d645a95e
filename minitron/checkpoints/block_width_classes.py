"""Classes written beside a checkpoint whose FFN widths differ by block, for transformers and for what reads through it.

They are run by readers that are told to trust code beside checkpoints (`trust_remote_code`), never here.
"""

from collections.abc import Mapping
from pathlib import Path

from minitron.artifacts.atomic import sync_file
from minitron.errors import MinitronError
from minitron.models.config import BLOCK_WIDTH_CLASSES
from minitron.models.shape import HybridShape

CONFIGURATION = '''"""{config} with an FFN width for each block that has an FFN. Written by minitron."""

from huggingface_hub.dataclasses import strict
from transformers import {config}


@strict
class BlockWidthsConfig({config}):
    intermediate_size: int | list[int] = 0
'''
MODELING = '''"""{model} with an FFN width for each block that has an FFN. Written by minitron."""

from torch import nn
from transformers import {model}

from .configuration_block_widths import BlockWidthsConfig


class BlockWidthsForCausalLM({model}):
    config_class = BlockWidthsConfig

    def __init__(self, config):
        widths = config.intermediate_size
        config.intermediate_size = max(widths)  # the class makes them all equal first
        super().__init__(config)
        config.intermediate_size = widths
        ffns = [module for module in self.modules() if type(module).__name__ == "{ffn}"]
        for ffn, width in zip(ffns, widths, strict=True):
            for name in {readers}:
                setattr(ffn, name, nn.Linear(config.hidden_size, width, bias=config.mlp_bias))
            ffn.down_proj = nn.Linear(width, config.hidden_size, bias=config.mlp_bias)
            ffn.intermediate_size = width
        self.post_init()
'''
# model_type -> what stands in the classes.
FAMILIES: Mapping[str, Mapping[str, object]] = {
    "nemotron_h": {
        "config": "NemotronHConfig",
        "model": "NemotronHForCausalLM",
        "ffn": "NemotronHMLP",
        "readers": ("up_proj",),
    },
    "llama": {
        "config": "LlamaConfig",
        "model": "LlamaForCausalLM",
        "ffn": "LlamaMLP",
        "readers": ("gate_proj", "up_proj"),
    },
}


def check_block_widths(shape: HybridShape) -> None:
    """Refuses a model of which checkpoints with FFN widths by block cannot be written.

    Raises:
        MinitronError: There are no classes for its family, or there are experts, whose shared FFNs are like them.
    """
    if shape.model_type not in FAMILIES or shape.count("E"):
        raise MinitronError(
            f"FFN widths by block are for {' and '.join(FAMILIES)} without experts, got {shape.model_type} with the "
            f"blocks {shape.hybrid_override_pattern}; leave prune.block_widths out"
        )


def class_files(shape: HybridShape) -> dict[str, str]:
    """Name -> text of the files that a checkpoint of this shape needs; none where all widths are equal.

    Raises:
        MinitronError: There are no classes for its family.
    """
    if not shape.block_widths:
        return {}
    check_block_widths(shape)
    modules = [name.partition(".")[0] + ".py" for name in BLOCK_WIDTH_CLASSES.values()]
    texts = (template.format(**FAMILIES[shape.model_type]) for template in (CONFIGURATION, MODELING))
    return dict(zip(modules, texts, strict=True))


def write_class_files(shape: HybridShape, folder: Path) -> None:
    """Writes and syncs them."""
    for name, text in class_files(shape).items():
        (folder / name).write_text(text, encoding="utf-8")
        sync_file(folder / name)
