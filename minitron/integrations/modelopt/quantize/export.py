"""Post-training quantization by ModelOpt: calibration, its export, and what of it is put right."""

import contextlib
import copy
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from minitron.artifacts.json_files import write_json
from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.data.masks import TokenSequences
from minitron.evaluate.perplexity import evaluate_text
from minitron.integrations.modelopt.quantize.ignore_lists import HF_QUANT_CONFIG, repaired_quantization, stated_lists
from minitron.integrations.quantize.folder import check_ignored, export_dtype, write_beside
from minitron.integrations.quantize.settings import QUANTIZED_FORMATS, QuantizeSettings
from minitron.runtime.dtypes import torch_dtype
from minitron.runtime.loading import load_model


def write_export(
    source: Checkpoint, settings: QuantizeSettings, sequences_NT: TokenSequences, folder: Path
) -> tuple[Checkpoint, float | None]:
    """Writes ModelOpt's export of a checkpoint, its lists of modules put right, and opens it.

    Returns:
        The quantized checkpoint, and the simulation's KL to the unquantized model in nats a token, None where
        there is no simulation.

    Raises:
        MinitronError: The export does not say what it left out.
    """
    export = folder / "export"
    shutil.rmtree(export, ignore_errors=True)
    kl = _export(source, settings, sequences_NT, export)
    written = _assemble(source, export, folder)
    shutil.rmtree(export)
    check_ignored(written, stated_lists(written))
    return written, kl


def fake_quantize(model: PreTrainedModel, name: str, forward_loop: Callable[[nn.Module], None]) -> PreTrainedModel:
    """Puts ModelOpt's simulated quantization into a model, in place, calibrated by a forward loop."""
    import modelopt.torch.quantization as mtq  # seven seconds to import

    config = copy.deepcopy(getattr(mtq, str(QUANTIZED_FORMATS[name].modelopt)))
    quantized: PreTrainedModel = mtq.quantize(model, config, forward_loop)
    return quantized


def calibration_loop(sequences_NT: TokenSequences, batch_size: int) -> Callable[[nn.Module], None]:
    """A forward loop that runs calibration sequences through a model."""

    def run(model: nn.Module) -> None:
        device = next(model.parameters()).device
        for start in range(0, len(sequences_NT), batch_size):
            ids_BT = torch.from_numpy(sequences_NT[start : start + batch_size]).long().to(device)
            model(ids_BT, use_cache=False)

    return run


def _export(source: Checkpoint, settings: QuantizeSettings, sequences_NT: TokenSequences, export: Path) -> float | None:
    from modelopt.torch.export import export_hf_checkpoint  # seven seconds to import

    dtype = torch_dtype(export_dtype(source))
    model = load_model(source.folder, device=settings.device, dtype=dtype)
    model.config.architectures = model.config.architectures or [type(model).__name__]
    with _quiet_modelopt():
        model = fake_quantize(model, settings.format, calibration_loop(sequences_NT, settings.batch_size))
        kl = None
        if QUANTIZED_FORMATS[settings.format].simulated:
            teacher = load_model(source.folder, device=settings.device, dtype=dtype)
            kl = evaluate_text(model, sequences_NT, teacher=teacher, batch_size=settings.batch_size).kl_to_teacher
        export_hf_checkpoint(model, export_dir=export)
    return kl


def _assemble(source: Checkpoint, export: Path, folder: Path) -> Checkpoint:
    embedded, beside = repaired_quantization(export)
    for path in export.iterdir():
        if path.name.endswith((".safetensors", ".safetensors.index.json")):
            path.replace(folder / path.name)
    write_beside(source, folder, embedded, without=(HF_QUANT_CONFIG,))
    write_json(folder / HF_QUANT_CONFIG, beside)
    return open_checkpoint(folder, quantized=True)


@contextlib.contextmanager
def _quiet_modelopt() -> Iterator[None]:
    # ModelOpt prints its progress on stdout, which is for results.
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
