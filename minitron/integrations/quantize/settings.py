"""How a checkpoint is quantized. Loads no torch."""

from dataclasses import dataclass

from minitron.checkpoints.quantized import LAYOUTS
from minitron.errors import MinitronError
from minitron.estimate.precision import WEIGHT_FORMATS, quantized_matrices
from minitron.models.shape import HybridShape


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedFormat:
    """A format by its name on the command line.

    Attributes:
        precision: What the memory model calls it.
        modelopt: ModelOpt's configuration; None for what is rounded here, without calibration.
        simulated: Whether the KL is that of ModelOpt's simulation, which computes nvfp4 on CUDA alone.
    """

    precision: str
    modelopt: str | None = None
    simulated: bool = False


QUANTIZED_FORMATS = {
    "fp8": QuantizedFormat(precision="fp8", modelopt="FP8_DEFAULT_CFG", simulated=True),
    "w8a8": QuantizedFormat(precision="w8a8"),
    "w4a16": QuantizedFormat(precision="w4a16"),
    "nvfp4": QuantizedFormat(precision="nvfp4", modelopt="NVFP4_DEFAULT_CFG"),
    "int8": QuantizedFormat(precision="int8", modelopt="INT8_DEFAULT_CFG", simulated=True),
    "int8-smoothquant": QuantizedFormat(precision="int8", modelopt="INT8_SMOOTHQUANT_CFG", simulated=True),
    "int4-awq": QuantizedFormat(precision="int4", modelopt="INT4_AWQ_CFG", simulated=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeSettings:
    """How a checkpoint is quantized.

    Attributes:
        format: One of `QUANTIZED_FORMATS`.
        data: Text that ModelOpt calibrates with and the KL is measured on; None where neither is done.
        samples: Packed samples of it.
        seq_len: Tokens a sample.
        batch_size: Samples in one pass.
        device: Where it is computed.
        seed: Fixes the samples.
    """

    format: str
    data: str | None = None
    samples: int = 64
    seq_len: int = 512
    batch_size: int = 8
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.format not in QUANTIZED_FORMATS:
            raise MinitronError(f"a format must be one of {', '.join(QUANTIZED_FORMATS)}, got {self.format!r}")
        if self.data is None and QUANTIZED_FORMATS[self.format].modelopt is not None:
            free = [name for name, each in QUANTIZED_FORMATS.items() if each.modelopt is None]
            raise MinitronError(
                f"{self.format} is calibrated and must be given text, got none; give --data PATH, or choose "
                f"{' or '.join(free)}, which need none"
            )


def check_format(shape: HybridShape, name: str) -> None:
    """Refuses a format that a matrix of a shape does not divide into.

    Raises:
        MinitronError: Columns are no multiple of its shortest run, or rows of what shares a byte.
    """
    precision = QUANTIZED_FORMATS[name].precision
    groups, layout = WEIGHT_FORMATS[precision].groups, LAYOUTS[precision]
    run = groups[-1] if groups else 1
    shared = layout.packed if layout.packed_dim == 0 else 1
    for tensor, (rows, columns) in quantized_matrices(shape).items():
        if columns % run or rows % shared:
            even = (
                f"an even number of rows and a multiple of {run} columns"
                if shared > 1
                else f"a multiple of {run} columns"
            )
            raise MinitronError(
                f"{name} needs matrices of {even}, {tensor} is {rows} x {columns}; choose another format"
            )
