"""Post-training quantization of a checkpoint: written whole or not at all, checked weight by weight, measured."""

import logging
from dataclasses import asdict, replace
from pathlib import Path

from minitron.artifacts.artifact import write_artifact
from minitron.artifacts.finished import finished_or_refused
from minitron.artifacts.hashes import file_hash
from minitron.artifacts.json_files import read_record, write_json
from minitron.checkpoints.checkpoint import checkpoint_hashes, open_checkpoint
from minitron.data.locations import locate
from minitron.integrations.compressed_tensors.write import write_compressed
from minitron.integrations.modelopt.quantize.export import write_export
from minitron.integrations.quantize.dequantize import check_weights
from minitron.integrations.quantize.divergence import kl_of_stored, text_sequences
from minitron.integrations.quantize.folder import MEASURED_FILE
from minitron.integrations.quantize.settings import QUANTIZED_FORMATS, QuantizeSettings, check_format
from minitron.runtime.devices import resolve_device

logger = logging.getLogger(__name__)

Measured = dict[str, int | float | str | None]


def quantize_checkpoint(folder: Path, settings: QuantizeSettings, output: Path) -> Measured:
    """Quantizes a checkpoint and measures the cost: bytes before and after, and KL to the unquantized model.

    What is not quantized is stored in 16 bits. The KL, in nats a token on the settings' text, is that of the stored
    weights; of ModelOpt's formats that of its simulation, before its export gives matrices that read the same
    activations one scale; None without text. A finished output that was made from the same inputs is taken as it is.

    Raises:
        MinitronError: The checkpoint, the text, the device or the format cannot be used, or what was written fails a
            gate.
    """
    settings = replace(settings, device=resolve_device(settings.device))
    source = open_checkpoint(folder)
    check_format(source.shape, settings.format)
    inputs = asdict(settings) | checkpoint_hashes(folder)
    contents = () if settings.data is None else locate(settings.data).contents
    if contents:
        hashes = [file_hash(path) for path in contents]
        inputs["data"] = hashes[0] if len(hashes) == 1 else hashes
    if finished_or_refused(output, inputs) is not None:
        return read_record(output / MEASURED_FILE, Measured)
    sequences_NT = None if settings.data is None else text_sequences(source, settings)
    kl: float | None = None
    with write_artifact(output, stage="quantize", inputs=inputs, seed=settings.seed) as partial:
        if QUANTIZED_FORMATS[settings.format].modelopt is None:
            written = write_compressed(source, QUANTIZED_FORMATS[settings.format].precision, partial)
        else:
            assert sequences_NT is not None
            written, kl = write_export(source, settings, sequences_NT, partial)
        largest = check_weights(source, written)
        if sequences_NT is None:
            logger.warning("no text was given: what quantization costs is not measured; --data PATH measures it")
        elif kl is None:
            kl = kl_of_stored(source, written, settings, sequences_NT)
        measured: Measured = {
            "format": settings.format,
            "params": written.params,
            "weights_bytes_before": source.weights_bytes,
            "weights_bytes_after": written.weights_bytes,
            "kl_to_unquantized": kl,
            "largest_half_steps": largest,
            "num_tokens": 0 if sequences_NT is None else int(sequences_NT.size),
        }
        write_json(partial / MEASURED_FILE, measured)
    logger.info("quantized to %s: %d to %d bytes", settings.format, source.weights_bytes, written.weights_bytes)
    return measured
