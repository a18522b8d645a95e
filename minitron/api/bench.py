"""Measuring generation speed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from minitron.api.checks import require_device_name
from minitron.evaluate.speed.bench import Bench, BenchSettings, bench_checkpoints
from minitron.recipe.load import make_section


def bench(checkpoints: Sequence[str | Path], *, settings: Mapping[str, object] | None = None) -> Bench:
    """Generation speed of checkpoints, side by side in one engine.

    Every repetition sends one wave to each checkpoint in turn: `concurrency` requests at once, of random tokens that no
    earlier prompt begins with. The first wave of each warms up and does not count.

    Args:
        checkpoints: Folders; ratios are to the first one.
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
    return bench_checkpoints([Path(folder) for folder in checkpoints], made)
