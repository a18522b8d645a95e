"""The steps of one training: from the state that an earlier call left to where this one ends."""

from pathlib import Path

from safetensors.torch import load_model

from minitron.distill.sharding import load_weights
from minitron.distill.training.callbacks import DivergenceCallback, ProgressCallback, StopCallback
from minitron.distill.training.resumed import check_record, reading_state
from minitron.distill.training.states import last_whole_state, read_history, step_of
from minitron.distill.training.trainer import DistillationTrainer, DivergedError
from minitron.distill.training.watch import Watch
from minitron.distributed import Ranks
from minitron.progress import progress_bar


def train_from_state(
    trainer: DistillationTrainer, watch: Watch | None, state_folder: Path, *, last_step: int, ranks: Ranks
) -> list[dict[str, float]]:
    """Trains from the last whole state, or from the start, to a step; gives what was logged of all steps.

    Args:
        trainer: What trains; one whose state has gone as far already takes the weights alone, in place.
        watch: What watches it; None without validation text.
        state_folder: Where its states lie.
        last_step: The step to end after.
        ranks: The processes, which all call it.

    Raises:
        DivergedError: The loss stops being finite, and no best state is kept.
        MinitronError: A state cannot be resumed from.
    """
    sharded = trainer.sharded
    ranks.barrier()  # so that all find the same states
    state = last_whole_state(state_folder, sharded=sharded)
    if state is not None and step_of(state) >= last_step:
        if sharded:
            load_weights(trainer.model, state)
        else:
            with reading_state(state):
                load_model(trainer.model, state / "model.safetensors")
        return read_history(state)
    if state is not None:
        check_record(state)
    with progress_bar() as progress:
        if ranks.is_main:
            trainer.add_callback(ProgressCallback(progress, progress.add_task("distill", total=last_step)))
        if watch is not None:
            trainer.add_callback(watch.callback)
        if last_step < trainer.args.max_steps:
            trainer.add_callback(StopCallback(last_step))
        trainer.add_callback(DivergenceCallback())
        try:
            trainer.train(resume_from_checkpoint=None if state is None else str(state))
        except DivergedError:
            if watch is None or not watch.survives(trainer.state.log_history):
                raise
    history: list[dict[str, float]] = trainer.state.log_history
    return history
