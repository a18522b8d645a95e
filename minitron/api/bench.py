"""Measuring generation speed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from minitron.api.checks import require_device_name
from minitron.checkpoints.hub import find_checkpoint
from minitron.errors import MinitronError
from minitron.evaluate.speed.bench import Bench, BenchSettings, bench_checkpoints
from minitron.recipe.load import make_section
from minitron.settings import AUTO_DEVICE


def bench(checkpoints: Sequence[str | Path], *, settings: Mapping[str, object] | None = None) -> Bench:
    """Generation speed of checkpoints, side by side in one engine.

    Every repetition sends one wave to each checkpoint in turn: `concurrency` requests at once, of random tokens that no
    earlier prompt begins with. The first wave of each warms up and does not count.

    Args:
        checkpoints: Folders or names on the Hugging Face hub; ratios are to the first one.
        settings: Any setting of `BenchSettings`, as `{"engine": "vllm", "concurrency": 8, "repetitions": 5}`.

    Returns:
        Output tokens a second, time to the first token, time between tokens, peak memory and the ratio of tokens a
        second, each a median with its smallest and largest value; beside them what the throughput model predicts.

    Raises:
        MinitronError: A checkpoint or a setting cannot be used, or the engine does not run.

    Example:
        ```python
        found = minitron.bench(["teacher/", "student/"], settings={"engine": "vllm"})
        print(found.speeds["student"].ratio)
        ```
    """
    made = make_section(BenchSettings, dict(settings or {}))
    require_device_name(made.device)
    if made.device == AUTO_DEVICE and made.engine == "transformers":
        from minitron.runtime.devices import resolve_device

        made = made.model_copy(update={"device": resolve_device(made.device)})
    return bench_checkpoints({str(given): find_checkpoint(given) for given in _each_once(checkpoints)}, made)


def _each_once(checkpoints: Sequence[str | Path]) -> Sequence[str | Path]:
    if len({str(given) for given in checkpoints}) < len(checkpoints):
        raise MinitronError("checkpoints to compare must differ, one is given twice")
    return checkpoints
