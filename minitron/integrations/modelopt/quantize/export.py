"""Post-training quantization by ModelOpt, written atomically as a checkpoint folder."""

import contextlib
import copy
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from minitron.artifacts.artifact import write_artifact
from minitron.artifacts.finished import finished_or_refused
from minitron.artifacts.hashes import file_hash
from minitron.artifacts.header import HEADER_FILE, MARKER_FILE
from minitron.artifacts.json_files import read_record, write_json
from minitron.checkpoints.checkpoint import Checkpoint, checkpoint_hashes, open_checkpoint
from minitron.checkpoints.weights import carry_files
from minitron.data.documents import is_text_file
from minitron.data.sequences import TokenSequences, blend_sources
from minitron.data.sources import TextSource
from minitron.dtypes import DTYPES
from minitron.errors import MinitronError
from minitron.evaluate.perplexity import evaluate_text
from minitron.integrations.modelopt.quantize.dequantize import check_weights
from minitron.integrations.modelopt.quantize.ignore_lists import HF_QUANT_CONFIG, check_ignored, repaired_quantization
from minitron.integrations.modelopt.quantize.settings import QUANTIZED_FORMATS, QuantizeSettings
from minitron.models.axes import tensor_shape
from minitron.models.config import config_for_shape
from minitron.runtime.dtypes import torch_dtype
from minitron.runtime.loading import check_device, load_model, load_tokenizer

logger = logging.getLogger(__name__)

INT4_GROUP = 128
MEASURED_FILE = "quantization.json"


def quantize_checkpoint(folder: Path, settings: QuantizeSettings, output: Path) -> dict[str, int | float | str]:
    """Quantizes a checkpoint and measures the cost: bytes before and after, and KL to the unquantized model.

    The KL is that of ModelOpt's simulation, in nats a token, on the calibration text, before its export gives matrices
    that read the same activations one scale. What is not quantized is stored in 16 bits. A finished output that was
    made from the same inputs is taken as it is.

    Raises:
        MinitronError: The checkpoint, the text, the device or the format cannot be used, or the export fails a gate.
    """
    check_device(settings.device)
    source = open_checkpoint(folder)
    _check_format(source, settings.format)
    inputs = asdict(settings) | checkpoint_hashes(folder)
    inputs["data"] = file_hash(Path(settings.data)) if is_text_file(settings.data) else settings.data
    if finished_or_refused(output, inputs) is not None:
        return read_record(output / MEASURED_FILE, dict[str, int | float | str])
    sequences_NT = _calibration(source, settings)
    with write_artifact(output, stage="quantize", inputs=inputs, seed=settings.seed) as partial:
        export = partial / "export"
        shutil.rmtree(export, ignore_errors=True)
        kl = _export(source, settings, sequences_NT, export)
        written = _assemble(source, export, partial)
        shutil.rmtree(export)
        check_ignored(written)
        largest = check_weights(source, written)
        measured: dict[str, int | float | str] = {
            "format": settings.format,
            "params": written.params,
            "weights_bytes_before": source.weights_bytes,
            "weights_bytes_after": written.weights_bytes,
            "kl_to_unquantized": kl,
            "largest_half_steps": largest,
            "num_tokens": int(sequences_NT.size),
        }
        write_json(partial / MEASURED_FILE, measured)
    logger.info("quantized to %s: %d to %d bytes", settings.format, source.weights_bytes, written.weights_bytes)
    return measured


def fake_quantize(model: PreTrainedModel, name: str, forward_loop: Callable[[nn.Module], None]) -> PreTrainedModel:
    """Puts ModelOpt's simulated quantization into a model, in place, calibrated by a forward loop."""
    import modelopt.torch.quantization as mtq  # seven seconds to import

    config = copy.deepcopy(getattr(mtq, QUANTIZED_FORMATS[name][0]))
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


def export_dtype(source: Checkpoint) -> str:
    """Number format of what is not quantized: fp16 where all of the source's tensors are, else bf16."""
    return "fp16" if {tensor.dtype for tensor in source.tensors.values()} == {"F16"} else "bf16"


def _check_format(source: Checkpoint, name: str) -> None:
    if QUANTIZED_FORMATS[name][1] != "int4":
        return
    outside = {spec.name for spec in source.shape.family.model_tensors}
    for tensor, spec in source.shape.tensors().items():
        if tensor not in outside and len(spec.dims) == 2:
            rows, columns = tensor_shape(spec, source.shape.sizes)
            if columns % INT4_GROUP or rows % 2:
                raise MinitronError(
                    f"{name} needs matrices of an even number of rows and a multiple of {INT4_GROUP} columns, "
                    f"{tensor} is {rows} x {columns}; choose another format"
                )


def _calibration(source: Checkpoint, settings: QuantizeSettings) -> TokenSequences:
    sequences_NT = blend_sources(
        [TextSource(path=settings.data)],
        load_tokenizer(source.folder),
        seq_len=settings.seq_len,
        num_sequences=settings.samples,
        seed=settings.seed,
    )
    if int(sequences_NT.max()) >= source.shape.vocab_size:
        raise MinitronError(
            f"token ids must be below the model's vocab_size {source.shape.vocab_size}, the tokenizer gives "
            f"{int(sequences_NT.max())}"
        )
    return sequences_NT


def _export(source: Checkpoint, settings: QuantizeSettings, sequences_NT: TokenSequences, export: Path) -> float:
    from modelopt.torch.export import export_hf_checkpoint  # seven seconds to import

    dtype = torch_dtype(export_dtype(source))
    reference = load_model(source.folder, device=settings.device, dtype=dtype)
    model = load_model(source.folder, device=settings.device, dtype=dtype)
    model.config.architectures = model.config.architectures or [type(model).__name__]
    with _quiet_modelopt():
        model = fake_quantize(model, settings.format, calibration_loop(sequences_NT, settings.batch_size))
        kl = evaluate_text(model, sequences_NT, teacher=reference, batch_size=settings.batch_size).kl_to_teacher
        export_hf_checkpoint(model, export_dir=export)
    assert kl is not None
    return kl


def _assemble(source: Checkpoint, export: Path, folder: Path) -> Checkpoint:
    embedded, beside = repaired_quantization(export)
    for path in export.iterdir():
        if path.name.endswith((".safetensors", ".safetensors.index.json")):
            path.replace(folder / path.name)
    carry_files(source, folder, without=_NOT_CARRIED)
    config = config_for_shape(source.config, source.shape)
    config.pop("torch_dtype", None)
    count = source.shape.family.extra_count
    if source.extras and count is not None:
        logger.warning("%s: layers that predict further tokens are left out", folder)
        config[count] = 0
    config |= {"dtype": DTYPES[export_dtype(source)].torch, "quantization_config": embedded}
    write_json(folder / "config.json", config)
    write_json(folder / HF_QUANT_CONFIG, beside)
    return open_checkpoint(folder, quantized=True)


_NOT_CARRIED = (HEADER_FILE, MARKER_FILE, HF_QUANT_CONFIG, MEASURED_FILE)


@contextlib.contextmanager
def _quiet_modelopt() -> Iterator[None]:
    # ModelOpt prints its progress on stdout, which is for results.
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
