"""Students of one run against a run for each: KL to the teacher at half of the tokens.

    python benchmarks/nested_students.py examples/quickstart/recipe.yaml --tokens 65536 --seeds 0

The recipe's own candidate is the largest student; the smaller ones are given. Each student has a run of its own first:
the teacher cut to its shape by the same scores, repaired as the recipe says, and distilled on --tokens. Then one run
trains all students together (`distill.students`) on half of the tokens that the separate runs took together. With
--halves separate runs on half of the tokens each are measured, too: the same tokens in all as the one run.
All are measured on the same held-out text, and start from the same pruned checkpoint or one cut by the same scores.
"""

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from arms import distill_and_measure, kl_of
from rich.console import Console
from rich.table import Table

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.students import read_students
from minitron.evaluate.perplexity import evaluate_text
from minitron.importance.scores import load_scores
from minitron.models.nested import NestedStudent
from minitron.pipeline.blocks import kept_blocks
from minitron.pipeline.context import Execution
from minitron.pipeline.evaluation import held_out_text
from minitron.pipeline.pruning import Cut, prune_to
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER, RunFolder
from minitron.pipeline.runner import run_pipeline
from minitron.pipeline.sections import cut_source, prune_section
from minitron.recipe.load import load_recipe
from minitron.recipe.recipe import Recipe
from minitron.runtime.loading import load_model, load_tokenizer

# Beside the quickstart's own candidate: 9 blocks, hidden size 160, FFN 576, 12 Mamba heads. Weights of the losses are
# the root of the largest student's KL over the student's own, both before training.
STUDENTS = {
    "medium": {"shape": {"hidden_size": 144, "intermediate_size": 448, "mamba_num_heads": 10}, "weight": 0.57},
    "small": {
        "shape": {"hidden_size": 128, "intermediate_size": 384, "mamba_num_heads": 8, "num_hidden_layers": 8},
        "weight": 0.36,
    },
}
LARGEST = "distilled"  # what the run's tables call it


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A student's KL to the teacher.

    Attributes:
        params: Its parameters.
        started: Cut and repaired, before its own run.
        separate: After a run of its own.
        half: After one on half of the tokens; None when not measured.
        nested: After the one run.
    """

    params: int
    started: float
    separate: float
    half: float | None
    nested: float


def run_seed(recipe: Recipe, tokens: int, folder: Path, *, halves: bool) -> dict[str, Compared]:
    """Every student, the largest one first."""
    for outcome in run_pipeline(recipe, folder / "run"):
        print(f"seed {recipe.seed}: {outcome.name} {outcome.seconds:.0f} s", flush=True)
    run = RunFolder(folder / "run")
    metrics, largest = run.read_metrics(), open_checkpoint(run.student).shape
    everything = NestedStudent(name=LARGEST, shape=largest, layers=tuple(range(largest.num_hidden_layers)))
    found = {}
    for student in (everything, *read_students(run.student).students):
        started, separate = alone(recipe, run, student, tokens, folder / student.name)
        half = alone(recipe, run, student, tokens // 2, folder / f"{student.name}-half")[1] if halves else None
        one = metrics[student.name]
        found[student.name] = Compared(
            params=one.params, started=started, separate=separate, half=half, nested=kl_of(one)
        )
        print(f"seed {recipe.seed}: {student.name}: {found[student.name]}", flush=True)
    return found


def alone(recipe: Recipe, run: RunFolder, student: NestedStudent, tokens: int, folder: Path) -> tuple[float, float]:
    """KL of a student that is cut out of the teacher itself, before and after a run of its own."""
    source, scores = open_checkpoint(cut_source(recipe, run)), load_scores(run.scores)
    layers = kept_blocks(recipe, source.shape, scores.depth, len(student.layers))
    sizes = {axis: student.shape.sizes[axis] for axis in source.shape.family.axes}
    cut = Cut(source=source, scores=scores, target=source.shape.resized(layers=layers, **sizes), layers=layers)
    execution = Execution(device=recipe.device, seed=recipe.seed)
    written = prune_to(cut, folder / "cut" / CHECKPOINT_FOLDER, section=prune_section(recipe), execution=execution)
    section = recipe.distill.model_copy(update={"tokens": tokens, "students": ()})
    own, model = recipe.model_copy(update={"distill": section}), load_model(written.folder, device=recipe.device)
    started = held_out_kl(recipe, written.folder)
    metrics, _ = distill_and_measure(own, run, model, written, folder / "distilled", None)
    return started, kl_of(metrics)


def held_out_kl(recipe: Recipe, folder: Path) -> float:
    """KL to the teacher on the recipe's held-out text."""
    teacher = Path(recipe.teacher)
    held_out_NT = held_out_text(recipe.evaluate, load_tokenizer(teacher), seed=recipe.seed)
    models = (load_model(one, device=recipe.device) for one in (folder, teacher))
    kl = evaluate_text(next(models), held_out_NT, teacher=next(models)).kl_to_teacher
    assert kl is not None
    return kl


def results_table(results: dict[int, dict[str, Compared]], tokens: int) -> Table:
    """A row a seed and student."""
    together = tokens * len(next(iter(results.values()))) // 2
    table = Table(title="KL to the teacher, nats a token", title_justify="left")
    separate = (f"alone, {tokens:,}", f"alone, {tokens // 2:,}", f"one run, {together:,} in all")
    for column in ("seed", "student", "parameters", "cut, repaired", *separate, "one run / alone"):
        table.add_column(column, justify="right")
    for seed, found in results.items():
        for name, each in found.items():
            half = "-" if each.half is None else f"{each.half:.4f}"
            numbers = (f"{each.started:.4f}", f"{each.separate:.4f}", half, f"{each.nested:.4f}")
            table.add_row(str(seed), name, f"{each.params:,}", *numbers, f"{each.nested / each.separate:.2f}")
    return table


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--tokens", type=int, required=True, help="of each separate run")
    parser.add_argument("--students", type=json.loads, default=STUDENTS, help="JSON: name -> its other settings")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--halves", action="store_true", help="measure separate runs on half of the tokens, too")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    students = [{"name": name, **settings} for name, settings in args.students.items()]
    nested = (f"distill.tokens={args.tokens * (len(students) + 1) // 2}", f"distill.students={json.dumps(students)}")
    results = {}
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            recipe = load_recipe(args.recipe, (*nested, *args.set, f"seed={seed}"))
            results[seed] = run_seed(recipe, args.tokens, Path(folder), halves=args.halves)
    Console(width=140).print(results_table(results, args.tokens))


if __name__ == "__main__":
    main()
