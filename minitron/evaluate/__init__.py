"""What a model can do: loss and KL on held-out text, exact match on a task, generation speed."""

from minitron.evaluate.speed import tokens_per_second
from minitron.evaluate.task import Problem, TaskEvaluation, evaluate_task, extract_answer, read_problems
from minitron.evaluate.text import TextEvaluation, evaluate_text

__all__ = [
    "Problem",
    "TaskEvaluation",
    "TextEvaluation",
    "evaluate_task",
    "evaluate_text",
    "extract_answer",
    "read_problems",
    "tokens_per_second",
]
