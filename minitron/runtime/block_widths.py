"""FFN widths that differ by block, in a loaded model of a class that knows one width alone."""

from pathlib import Path

from torch import nn
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from minitron.models.axes import tensor_shape
from minitron.models.config import read_config
from minitron.models.shape import FFN_AXIS, HybridShape
from minitron.runtime.backbone import blocks_of


def config_for_tokenizer(folder: Path) -> PretrainedConfig | None:
    """A configuration by which AutoTokenizer finds the class; None where it may read the folder's own.

    It reads `config.json` with transformers' own classes, which refuse a list of widths.
    """
    if not (folder / "config.json").is_file():
        return None
    config = read_config(folder)
    listed = isinstance(config.get(FFN_AXIS), list)
    return AutoConfig.for_model(config["model_type"]) if listed else None


def narrow_ffns(model: PreTrainedModel, shape: HybridShape) -> None:
    """Gives each block's FFN projections its width, in place, with new weights; nothing where all widths are equal."""
    if not shape.block_widths:
        return
    blocks = blocks_of(model)
    for layer in shape.ffn_layers:
        sizes = shape.sizes_at(layer)
        for spec in shape.family.tensors_of(shape.hybrid_override_pattern[layer], sizes):
            if FFN_AXIS in spec.axes() and len(spec.dims) == 2:
                rows, columns = tensor_shape(spec, sizes)
                module, _, attribute = (spec.in_memory or spec.name).removesuffix(".weight").rpartition(".")
                setattr(blocks[layer].get_submodule(module), attribute, nn.Linear(columns, rows, bias=False))
