"""Throughput model: a roofline of prefill and decode for the largest batch that a memory holds.

A step takes the longer of reading its bytes and doing its operations. Decode reads every weight but the embedding
table, keys and values of the mean context (within its window where a layer has one), and reads and writes recurrent
states; prefill does two operations a weight and token, and attention's products. All sequences of a batch start and end
together and keep room for their full length, as in a static batch; the number that fits is whole.
docs/decisions/0007-throughput-model.md holds the model against the published measurements.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from minitron.errors import BudgetError
from minitron.estimate.devices import Device
from minitron.estimate.precision import WEIGHT_FORMATS, model_tensor_bits
from minitron.estimate.serving.cache import conv_state_bits, kv_token_bits, ssm_state_bits
from minitron.estimate.serving.memory import memory_parts
from minitron.estimate.serving.vllm_cache import null_block_bytes
from minitron.estimate.serving.workload import Lengths, Workload
from minitron.models.axes import SizeT
from minitron.models.families.family import Family
from minitron.models.shape import HybridShape

# Share of the peak bandwidth, fitted to one number: 156.42 tokens/s of Nano-9B-v2 at 8k/16k on an A10G (2508.14444).
BANDWIDTH_EFFICIENCY = 0.883
# Share of the peak rate, not fitted: 70 of an A10G's 125 TFLOP/s are typical of large matrix products.
COMPUTE_EFFICIENCY = 0.56

# One model's number, or an array of them over many shapes.
Counts = int | npt.NDArray[np.int64]
Rates = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingCost:
    """What serving a model costs, whatever its architecture; for one shape or for many at once.

    Attributes:
        step_bytes: Weights read in every decode step.
        token_bytes: Cache of one token of context.
        state_bytes: State of one sequence, whatever its context.
        token_operations: Operations on weights for one token.
        context_operations: Operations of attention for one token and each token of its context.
        max_sequences: Sequences of the full length that the memory holds.
        window: Tokens that layers with a window see.
        window_token_bytes: Their cache of one token within it.
        window_operations: Their operations for one token and each token within it.
    """

    step_bytes: Counts
    token_bytes: Counts
    state_bytes: Counts
    token_operations: Counts
    context_operations: Counts
    max_sequences: Counts
    window: Counts = 0
    window_token_bytes: Counts = 0
    window_operations: Counts = 0

    def cache_read(self, start: float, stop: float) -> Rates:
        """Bytes of keys and values that a token reads, in the mean over contexts from start to stop."""
        within = mean_within(self.window, start, stop)
        return np.asarray(self.token_bytes * ((start + stop) / 2) + self.window_token_bytes * within)

    def attention_operations(self, start: float, stop: float) -> Rates:
        """Operations of attention for a token, in the mean over contexts from start to stop."""
        within = mean_within(self.window, start, stop)
        return np.asarray(self.context_operations * ((start + stop) / 2) + self.window_operations * within)


def mean_within(window: Counts, start: float, stop: float) -> Rates:
    """Mean of the smaller of a context and a window, over contexts from start to stop.

    >>> float(mean_within(4, 0, 8)), float(mean_within(100, 0, 8)), float(mean_within(4, 6, 8))
    (3.0, 4.0, 4.0)
    """
    reached = np.clip(window, start, stop)
    return np.asarray(((reached**2 - start**2) / 2 + window * (stop - reached)) / (stop - start))


def serving_cost(
    family: Family,
    counts: Mapping[str, int],
    sizes: Mapping[str, SizeT],
    workload: Workload,
    lengths: Lengths,
    budget_bytes: int,
) -> ServingCost:
    """What serving a hybrid costs.

    Args:
        family: The model's family.
        counts: Letter of a kind of block -> how many there are.
        sizes: Axis -> size, or an array of sizes that broadcasts against the others.
        workload: Precisions and accounting; its context and sequences do not matter.
        lengths: Tokens in and out.
        budget_bytes: Memory for weights, caches and workspace.
    """
    one = workload.changed(context_tokens=lengths.input_tokens + lengths.output_tokens, sequences=1)
    parts = memory_parts(family, counts, sizes, one)
    shared = null_block_bytes(family, counts, sizes, one)
    sequence = parts["kv_bytes"] + parts["ssm_bytes"] + parts["conv_bytes"] - shared
    left = budget_bytes - parts["weights_bytes"] - parts["workspace_bytes"] - shared
    fit = np.maximum(0, left // np.maximum(1, sequence))
    # What an engine runs at once bounds the batch where the engine is accounted for, or where a sequence costs nothing.
    bounded = workload.accounting == "vllm" or sequence == 0
    table = next(spec for spec in family.model_tensors if spec.name == family.embeddings)
    # A tied table is read whole, as the head; else only the rows of a few tokens are.
    tied = family.head_tensor(sizes) == family.embeddings
    table_bytes = 0 if tied else model_tensor_bits(table, sizes, WEIGHT_FORMATS[workload.weights_dtype]) // 8
    attention, windows, recurrent = (family.num_keeping(what, counts) for what in ("kv", "window", "state"))
    token_bytes = kv_token_bits(sizes, workload) // 8
    operations = 4 * sizes["num_attention_heads"] * sizes["head_dim"]
    return ServingCost(
        step_bytes=parts["weights_bytes"] - table_bytes,
        token_bytes=attention * token_bytes,
        state_bytes=recurrent
        * (ssm_state_bits(family, sizes, workload) + conv_state_bits(family, sizes, workload))
        // 8,
        token_operations=2 * family.active_params(counts, sizes),
        context_operations=attention * operations,
        max_sequences=np.where(bounded, np.minimum(fit, workload.engine.max_num_seqs), fit),
        window=sizes["sliding_window"] if windows else 0,
        window_token_bytes=windows * token_bytes,
        window_operations=windows * operations,
    )


def tokens_per_second(
    cost: ServingCost, device: Device, lengths: Lengths, *, weights_dtype: str = "bf16"
) -> npt.NDArray[np.float64]:
    """Output tokens a second over a whole batch, prefill included, in an array; 0 where not one sequence fits.

    Raises:
        BudgetError: The device's rates are unknown.
    """
    peak = device.tflops(weights_dtype)
    if device.bandwidth_gb_s is None or device.bf16_tflops is None or peak is None:
        raise BudgetError(f"the throughput model needs the bandwidth and bf16 rate of {device.name}, it has none")
    bandwidth = device.bandwidth_gb_s * 1e9 * (1.0 if device.is_measured else BANDWIDTH_EFFICIENCY)
    rate = peak * 1e12 * (1.0 if device.is_measured else COMPUTE_EFFICIENCY)
    batch = cost.max_sequences
    prompt, whole = lengths.input_tokens, lengths.input_tokens + lengths.output_tokens
    step_bytes = cost.step_bytes + batch * (cost.cache_read(prompt, whole) + 2 * cost.state_bytes)
    step_operations = batch * (cost.token_operations + cost.attention_operations(prompt, whole))
    decode_s = lengths.output_tokens * np.maximum(step_bytes / bandwidth, step_operations / rate)
    prompt_operations = prompt * (cost.token_operations + cost.attention_operations(0, prompt))
    prefill_s = np.maximum(batch * prompt_operations / rate, cost.step_bytes / bandwidth)
    return np.asarray(batch * lengths.output_tokens / (prefill_s + decode_s), dtype=np.float64)


def predict_tokens_per_second(
    shape: HybridShape, workload: Workload, device: Device, lengths: Lengths, budget_bytes: int
) -> float:
    """Output tokens a second of one shape in one memory."""
    cost = serving_cost(shape.family, shape.counts, shape.sizes, workload, lengths, budget_bytes)
    return float(tokens_per_second(cost, device, lengths, weights_dtype=workload.weights_dtype))


def predict_batch_tokens_per_second(
    shape: HybridShape, workload: Workload, device: Device, lengths: Lengths, batch: int
) -> float:
    """Output tokens a second of a batch of one shape, whatever memory it takes."""
    cost = serving_cost(shape.family, shape.counts, shape.sizes, workload, lengths, 0)
    held = replace(cost, max_sequences=batch)
    return float(tokens_per_second(held, device, lengths, weights_dtype=workload.weights_dtype))
