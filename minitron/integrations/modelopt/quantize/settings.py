"""How a checkpoint is quantized. Loads no torch."""

from dataclasses import dataclass

from minitron.errors import MinitronError

# Our name of a format -> (ModelOpt's configuration, what the memory model calls it).
QUANTIZED_FORMATS = {
    "fp8": ("FP8_DEFAULT_CFG", "fp8"),
    "int8": ("INT8_DEFAULT_CFG", "int8"),
    "int8-smoothquant": ("INT8_SMOOTHQUANT_CFG", "int8"),
    "int4-awq": ("INT4_AWQ_CFG", "int4"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeSettings:
    """How a checkpoint is quantized.

    Attributes:
        format: One of `QUANTIZED_FORMATS`.
        data: Calibration text.
        samples: Packed samples of it.
        seq_len: Tokens a sample.
        batch_size: Samples in one pass.
        device: Where it is computed.
        seed: Fixes the samples.
    """

    format: str
    data: str
    samples: int = 64
    seq_len: int = 512
    batch_size: int = 8
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.format not in QUANTIZED_FORMATS:
            raise MinitronError(f"a format must be one of {', '.join(QUANTIZED_FORMATS)}, got {self.format!r}")
