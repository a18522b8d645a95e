"""Measuring a checkpoint."""

from collections.abc import Mapping
from pathlib import Path

from minitron.api.text import Text, source_settings
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.finite import naming_weights
from minitron.checkpoints.hub import find_checkpoint
from minitron.estimate.serving.workload import Workload
from minitron.evaluate.metrics import Metrics
from minitron.pipeline.evaluation import evaluate_model
from minitron.recipe.evaluate import EvaluateSection
from minitron.recipe.load import make_section
from minitron.runtime.loading import check_device, load_model
from minitron.runtime.vocabulary import restrict_vocabulary
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
            `{"task": {"name": "sums", "path": "problems.jsonl"}}`.
        context: Tokens that the bytes are for.
        device: torch device.

    Returns:
        Parameters, bytes at `context`, held-out loss and KL to the teacher in nats a token, generated tokens a second,
        and the share of a task's problems that are answered exactly.

    Raises:
        MinitronError: A checkpoint, the text or a setting cannot be used.

    Example:
        ```python
        metrics = minitron.evaluate("student/", "heldout.jsonl", teacher="teacher/", settings={"sequences": 32})
        print(metrics.to_json())
        ```
    """
    check_device(device)
    section = make_section(EvaluateSection, {"data": source_settings(data), **(settings or {})})
    folder, teacher_folder = find_checkpoint(checkpoint), None if teacher is None else find_checkpoint(teacher)
    kept = None if teacher_folder is None else comparable_ids(teacher_folder, folder)
    loaded = None if teacher_folder is None else load_model(teacher_folder, device=device)
    if loaded is not None and kept is not None:
        restrict_vocabulary(loaded, kept)
    model = load_model(folder, device=device)
    workload = make_section(Workload, {"context_tokens": context})
    with naming_weights(*(open_checkpoint(one) for one in (teacher_folder,) if one is not None)):
        return evaluate_model(model, folder, section, workload, teacher=loaded, seed=0)
