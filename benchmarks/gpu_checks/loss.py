"""Time and peak memory of the loss at the 12B's vocabulary, beside what no exact loss avoids."""

import statistics
from collections.abc import Iterator

from kd_methods import METHODS, Inputs, Loss, random_inputs

from gpu_checks.row import Row, State
from gpu_checks.target import Target
from minitron.distill.loss.chunked import DEFAULT_CHUNK_TOKENS


def run(target: Target) -> Iterator[Row]:
    """Memory against inputs and gradients, time against the four matrix products, these against the card's peak."""
    tokens, hidden, vocab = target.sizes.loss
    inputs = random_inputs(tokens, hidden, vocab, device=target.device, dtype=target.dtype, noise=0.05)
    loss, floor = (METHODS[name].make(DEFAULT_CHUNK_TOKENS) for name in ("minitron", "floor"))
    loss(inputs.first(min(tokens, DEFAULT_CHUNK_TOKENS)))  # compiles
    inputs.take_grads()
    target.restart_peak()
    value = loss(inputs)
    assert value is not None
    grads = inputs.take_grads()
    held = [inputs.student_ND, inputs.student_head_VD, inputs.teacher_ND, inputs.teacher_head_VD, *grads]
    yield target.peak("peak memory of the loss", sum(each.nbytes for each in held), "inputs and gradients")
    finite: State = "ok" if all(bool(each.isfinite().all()) for each in (value, *grads)) else "failed"
    yield Row(
        measured=f"mean KL of {tokens:,} tokens, {vocab:,} logits each",
        value=float(value),
        unit="nats",
        state=finite,
        note="" if finite == "ok" else "the loss or a gradient is not finite",
    )
    del held, grads
    yield from _times(target, inputs, loss, floor)


def _times(target: Target, inputs: Inputs, loss: Loss, floor: Loss) -> Iterator[Row]:
    _seconds(target, floor, inputs)
    losses, floors = [], [_seconds(target, floor, inputs)]
    for _ in range(target.sizes.rounds):
        losses.append(_seconds(target, loss, inputs))
        floors.append(_seconds(target, floor, inputs))
    loss_s, floor_s = statistics.median(losses), statistics.median(floors)
    yield Row(
        measured="time of the loss", value=loss_s, unit="s", reference=floor_s, reference_is="four products alone"
    )
    tokens, hidden, vocab = target.sizes.loss
    reached = 4 * 2 * tokens * hidden * vocab / floor_s / 1e12
    peak = None if target.profile is None else target.profile.bf16_tflops
    yield Row(
        measured=f"rate of the four products in {str(target.dtype).removeprefix('torch.')}",
        value=reached,
        unit="TFLOP/s",
        reference=peak,
        reference_is="" if peak is None else "peak, bf16",
        note=target.no_profile if peak is None else "",
    )


def _seconds(target: Target, loss: Loss, inputs: Inputs) -> float:
    started = target.now()
    loss(inputs)
    taken = target.now() - started
    inputs.take_grads()
    return taken
