"""Measuring a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from minitron.api.text import Text, source_settings
from minitron.checkpoints.hub import find_checkpoint
from minitron.estimate.serving.workload import Workload
from minitron.evaluate.metrics import Metrics
from minitron.pipeline.context import Execution
from minitron.pipeline.evaluating.plan import EvaluationPlan, EvaluationTeacher
from minitron.pipeline.evaluating.ways import open_evaluation
from minitron.recipe.evaluate import EvaluateSection
from minitron.recipe.load import make_section
from minitron.runtime.devices import resolve_device
from minitron.vocabulary.kept_tokens import comparable_ids


def evaluate(
    checkpoint: str | Path,
    data: Text,
    *,
    teacher: str | Path | None = None,
    settings: Mapping[str, object] | None = None,
    context: int = 131072,
    device: str = "cpu",
) -> Metrics:
    """Measures a checkpoint on held-out text.

    Args:
        checkpoint: Hugging Face checkpoint folder, or its name on the hub.
        data: Held-out text: a path or a dataset's name, a mapping of a source's settings, or several of them. Of
            conversations the answers count, unless a source's `loss` says otherwise.
        teacher: Checkpoint that the KL is measured to; None leaves it out. Where the checkpoint's vocabulary was cut
            from its, it is restricted to the kept tokens.
        settings: Any setting of a recipe's evaluate section, as `{"sequences": 32, "seq_len": 512}`; a task as
            `{"task": {"name": "sums", "path": "problems.jsonl"}}`. `{"speed": {}}` also measures generation, which
            takes minutes; `{"layerwise": True}` holds one block at a time.
        context: Tokens that the bytes are for.
        device: torch device; `auto`: cuda where torch sees one, else cpu.

    Returns:
        Parameters, bytes at `context`, held-out loss and KL to the teacher in nats a token, the share of a task's
        problems that are answered exactly, and generated tokens a second.

    Raises:
        MinitronError: A checkpoint, the text or a setting cannot be used.

    Example:
        ```python
        metrics = minitron.evaluate("student/", "heldout.jsonl", teacher="teacher/", settings={"sequences": 32})
        print(metrics.to_json())
        ```
    """
    device = resolve_device(device)
    section = make_section(EvaluateSection, {"data": source_settings(data), "speed": None, **(settings or {})})
    folder, against = find_checkpoint(checkpoint), None
    if teacher is not None:
        found = find_checkpoint(teacher)
        against = EvaluationTeacher(folder=found, kept=comparable_ids(found, folder))
    workload = make_section(Workload, {"context_tokens": context})
    plan = EvaluationPlan(section=section, workload=workload, execution=Execution(device=device))
    with TemporaryDirectory(prefix="minitron-states-") as scratch:
        return open_evaluation(plan, against, scratch=Path(scratch)).measure(folder)
