"""Verifies a written checkpoint: it is rejected unless its counts, shapes and logits are those of the plan."""

# T tokens, V vocabulary

import numpy as np
import torch

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.extras import extra_specs
from minitron.checkpoints.names import read_place
from minitron.checkpoints.places import model_places
from minitron.checkpoints.reading import Fp32, read_fp32
from minitron.errors import MinitronError, NotFiniteError
from minitron.models.axes import tensor_shape
from minitron.models.slicing import TensorCut, scale_tensor, tensor_cuts
from minitron.prune.plan import PrunePlan
from minitron.runtime.dtypes import torch_dtype
from minitron.runtime.loading import count_params, empty_model
from minitron.runtime.stack import LayerwiseStack, ReadRows
from minitron.units import MIB

CHECKED_TOKENS = 16
ROWS_BYTES = 64 * MIB


def check_params(written: Checkpoint, plan: PrunePlan) -> None:
    """Parameters planned, counted from the headers, and of the model that transformers builds must be one number.

    Every tensor must have the shape that the family declares and that transformers gives the parameter it is loaded
    into. The model is built without weights, so any size is checked in little memory.

    Raises:
        MinitronError: They differ; the message gives all three numbers, or the tensor.
    """
    model = empty_model(written)
    built = count_params(model)
    if not plan.target.params == written.params == built:
        raise MinitronError(
            f"parameters must agree: planned {plan.target.params:,}, counted in the files {written.params:,}, "
            f"loaded by transformers {built:,}"
        )
    state, places = model.state_dict(), model_places(plan.target)
    for name, declared in plan.target.tensor_shapes().items():
        loaded = tuple(read_place(state, places[name]).shape)
        if not declared == written.tensors[name].shape == loaded:
            raise MinitronError(
                f"{name} must have one shape: declared {declared}, stored {written.tensors[name].shape}, "
                f"loaded by transformers {loaded}"
            )
    for name, spec in extra_specs(plan.target, written.extras).items():
        declared = tensor_shape(spec, plan.target.sizes)
        if written.extras[name].shape != declared:
            raise MinitronError(f"{name} must have the shape {declared}, stored is {written.extras[name].shape}")


def check_range(written: Checkpoint) -> None:
    """Every stored fp16 weight must be finite: larger ones are what a cast to fp16 makes infinite.

    Raises:
        MinitronError: One is not.
    """
    for name, stored in written.tensors.items():
        row_bytes = 4 * max(1, int(np.prod(stored.shape[1:])))
        step = max(1, ROWS_BYTES // row_bytes)
        for first in range(0, stored.shape[0] if stored.dtype == "F16" else 0, step):
            rows = read_fp32(stored, first=first, count=min(step, stored.shape[0] - first))
            if not np.isfinite(rows).all():
                raise MinitronError(f"weights must fit fp16 to be cast to it, {name} holds larger ones; take bf16")


@torch.no_grad()
def check_logits(
    source: Checkpoint, written: Checkpoint, plan: PrunePlan, *, dtype: str | None = None, seed: int = 0
) -> None:
    """Logits of the written checkpoint must be those of the source cut in memory, bit for bit, on seeded tokens.

    Both are run one block at a time in fp32. The cut in memory shares the arithmetic of indices with what writes files,
    and nothing else: a fault of reading, picking, rounding or placing is found here, while what a cut means is held by
    the laws in the tests.

    Args:
        source: The checkpoint that was cut.
        written: What was written.
        plan: The plan it was cut by.
        dtype: safetensors dtype that it was cast to; None where each tensor kept its own.
        seed: Seed of the tokens.

    Raises:
        MinitronError: A logit differs or is not finite.
    """
    ids_1T = torch.from_numpy(np.random.default_rng(seed).integers(0, plan.target.vocab_size, (1, CHECKED_TOKENS)))
    found_TV = _logits(LayerwiseStack(written), ids_1T)
    expected_TV = _logits(LayerwiseStack(written, read=cut_rows(source, plan, dtype=dtype)), ids_1T)
    if not torch.isfinite(expected_TV).all():
        raise NotFiniteError(f"logits of the pruned model must be finite, those of {written.folder} are not")
    if not torch.equal(found_TV, expected_TV):
        apart = float((found_TV - expected_TV).abs().max())
        raise MinitronError(
            f"logits of the written checkpoint must be those of the model cut in memory, {written.folder} is off by "
            f"up to {apart:.3g}"
        )


def cut_rows(source: Checkpoint, plan: PrunePlan, *, dtype: str | None = None) -> ReadRows:
    """Reads the pruned model's tensors, in fp32, out of the source's files, without anything written."""
    cuts = {cut.name: cut for cut in tensor_cuts(plan.source, plan.keep, scales=plan.scales)}

    def read(name: str, first: int, count: int | None) -> Fp32:
        return _read_cut(source, cuts[name], dtype, first, count)

    return read


def _read_cut(source: Checkpoint, cut: TensorCut, dtype: str | None, first: int, count: int | None) -> Fp32:
    stored = source.tensors[cut.source]
    stop = cut.after[0] if count is None else first + count
    rows = np.arange(cut.before[0]) if cut.kept[0] is None else cut.kept[0]
    wanted = rows[first:stop]
    result: Fp32 = np.empty((len(wanted), *cut.after[1:]), dtype=np.float32)
    row_bytes = 4 * max(1, int(np.prod(cut.before[1:])))
    step = max(1, ROWS_BYTES // row_bytes)
    for start in range(int(wanted.min()), int(wanted.max()) + 1, step):
        inside = np.flatnonzero((wanted >= start) & (wanted < start + step))
        if len(inside):
            block = read_fp32(stored, first=start, count=min(step, cut.before[0] - start))[wanted[inside] - start]
            for dim, kept in enumerate(cut.kept[1:], start=1):
                if kept is not None and kept.ndim == 1:
                    block = np.take(block, kept, axis=dim)
                elif kept is not None:
                    own = zip(block, kept[first + inside], strict=True)
                    block = np.stack([np.take(entry, row, axis=dim - 1) for entry, row in own])
            result[inside] = block
    tensor = torch.from_numpy(result)
    if cut.scale != 1.0:
        tensor = scale_tensor(tensor, cut).to(torch_dtype(stored.dtype)).float()
    if dtype is not None:
        tensor = tensor.to(torch_dtype(dtype)).float()
    return tensor.numpy()


def _logits(stack: LayerwiseStack, ids_1T: torch.Tensor) -> torch.Tensor:
    hidden_1TD = stack.embed(ids_1T)
    for block in stack.blocks(range(stack.shape.num_hidden_layers)):
        hidden_1TD = stack.run([block], hidden_1TD, None)
    hidden_1TD = stack.final_norm(hidden_1TD)
    return torch.cat([hidden_1TD[0] @ rows_ND.T for rows_ND in stack.head()], dim=-1)
