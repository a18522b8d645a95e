"""FFN widths block by block against one width for all, at equal FFN units: where do they start to pay?

    python benchmarks/block_widths.py examples/quickstart/recipe.yaml --seeds 0 1 2 [--distill TOKENS]

What a width costs a block is measured: the KL to the teacher, on calibration text that the repair does not see, of the
teacher with that block alone cut and its writer refitted. Widths are eighths of the teacher's. From these costs the
exact allocation is taken (`minitron/search/allocation.py`). At each budget it is compared with equal widths, and with
what one ranking of all blocks' neurons by their scores would keep, on held-out text: sliced only, repaired, and after
distillation on so many tokens. Each student is the teacher with zeroed neurons: it computes what a narrower one does,
and neither gradients nor weight decay bring them back.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arms import distill_and_measure, held_out_ids, kl_of
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.data.masks import PackedSequences
from minitron.data.samples import Samples
from minitron.evaluate.perplexity import evaluate_text
from minitron.importance.calibrate import calibrate
from minitron.importance.scores import Scores
from minitron.importance.selection import top_units
from minitron.models.keep import Keep
from minitron.pipeline.calibration import open_stack, read_samples
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.sections import prune_section
from minitron.prune.plan import PrunePlan
from minitron.prune.reconstruction.alignment import Alignment
from minitron.prune.reconstruction.blockwise import apply_repaired, repair
from minitron.prune.reconstruction.moments import Moments
from minitron.prune.reconstruction.ridge import refit
from minitron.recipe.load import load_recipe
from minitron.recipe.prune import PruneSection, RepairSection
from minitron.recipe.recipe import Recipe
from minitron.runtime.backbone import blocks_of
from minitron.runtime.loading import load_model
from minitron.runtime.stack import MemoryStack
from minitron.search.allocation import allocate

EIGHTHS = 8
BUDGETS = (7, 6, 4, 3, 2)  # eighths of the FFN that are left
ARMS = ("uniform", "allocated", "ranked")
COST_SEQUENCES = 16
OTHER_SEED = 1000  # of the text that costs are measured on


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What is compared: budgets in eighths of the FFN, arms, and tokens of distillation (0: none)."""

    budgets: tuple[int, ...]
    arms: tuple[str, ...]
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A teacher, what repairs its students, and what they are measured on."""

    recipe: Recipe
    source: Checkpoint
    teacher: PreTrainedModel
    scores: Scores
    repaired_on: Samples
    costed_on: PackedSequences
    held_out: PackedSequences

    @property
    def layers(self) -> list[int]:
        """Blocks with an FFN."""
        return [*self.scores.intermediate_size]

    @property
    def step(self) -> int:
        """Neurons of an eighth."""
        return self.source.shape.intermediate_size // EIGHTHS

    @torch.no_grad()
    def kl_at(self, student: PreTrainedModel, layer: int, gram_FF: torch.Tensor, width: int) -> float:
        """KL to the teacher of a copy of it with one block cut to its best neurons, the writer refitted to all."""
        score_F = self.scores.intermediate_size[layer]
        if width == len(score_F):
            return 0.0
        kept = torch.from_numpy(top_units(score_F, width))
        gone = torch.from_numpy(np.setdiff1d(np.arange(len(score_F)), kept))
        writer = ffn_writer(self, blocks_of(student)[layer], layer)
        whole_DF = writer.weight.clone()
        section = prune_section(self.recipe).repair
        assert section is not None
        cross_DC = whole_DF[:, gone].double() @ gram_FF[gone][:, kept]
        writer.weight.zero_()
        writer.weight[:, kept] = refit(whole_DF[:, kept], cross_DC, gram_FF[kept][:, kept], section.ridge)
        cost = self.kl(student, self.costed_on)
        writer.weight.copy_(whole_DF)
        return cost

    def kl(self, student: PreTrainedModel, text: PackedSequences) -> float:
        """KL to the teacher."""
        found = evaluate_text(student, text, teacher=self.teacher).kl_to_teacher
        assert found is not None
        return found


def prepare(recipe: Recipe) -> Trial:
    """Scores the teacher and reads the texts."""
    source = open_checkpoint(Path(recipe.teacher))
    stack = open_stack(source, layerwise=False, device=recipe.device)
    score, section = recipe.score, prune_section(recipe).repair
    assert section is not None
    scores = calibrate(stack, read_samples(score, source, seed=recipe.seed), score)
    other = read_samples(score.model_copy(update={"samples": COST_SEQUENCES}), source, seed=recipe.seed + OTHER_SEED)
    return Trial(
        recipe=recipe,
        source=source,
        teacher=load_model(source.folder, device=recipe.device),
        scores=scores,
        repaired_on=read_samples(section, source, seed=recipe.seed),
        costed_on=other.token_ids,
        held_out=held_out_ids(recipe),
    )


def cut(trial: Trial, widths: dict[int, int]) -> tuple[PreTrainedModel, dict[int, torch.Tensor]]:
    """The teacher with all but the best neurons of each block zeroed, and which neurons live, block by block."""
    student, live = copy.deepcopy(trial.teacher), {}
    for layer, width in widths.items():
        score_F = trial.scores.intermediate_size[layer]
        live[layer] = torch.zeros(len(score_F))
        live[layer][torch.from_numpy(top_units(score_F, width))] = 1.0
    silence(trial, student, live)
    return student, live


@torch.no_grad()
def silence(trial: Trial, student: PreTrainedModel, live: dict[int, torch.Tensor]) -> None:
    """Zeroes the weights of the neurons that do not live, in place."""
    blocks = blocks_of(student)
    for layer, live_F in live.items():
        writer = ffn_writer(trial, blocks[layer], layer)
        writer.weight.mul_(live_F)
        path = trial.source.shape.family.hook_points["ffn"][trial.source.shape.hybrid_override_pattern[layer]][0].module
        ffn = blocks[layer].get_submodule(path.rpartition(".")[0])
        for reader in (module for module in ffn.children() if isinstance(module, nn.Linear) and module is not writer):
            reader.weight.mul_(live_F[:, None])


def ffn_writer(trial: Trial, block: nn.Module, layer: int) -> Any:
    """The projection that a block's neurons enter."""
    shape = trial.source.shape
    return block.get_submodule(shape.family.hook_points["ffn"][shape.hybrid_override_pattern[layer]][0].module)


@contextmanager
def masked(trial: Trial, student: PreTrainedModel, live: dict[int, torch.Tensor]) -> Iterator[None]:
    """While it lasts, neurons that do not live are 0 whatever a repair makes of the weights that compute them."""
    blocks = blocks_of(student)
    hooks = [
        ffn_writer(trial, blocks[layer], layer).register_forward_pre_hook(
            lambda _, inputs, live_F=live_F: (inputs[0] * live_F, *inputs[1:])
        )
        for layer, live_F in live.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def repaired(trial: Trial, widths: dict[int, int]) -> PreTrainedModel:
    """A student, cut and repaired."""
    student, live = cut(trial, widths)
    shape, family = trial.source.shape, trial.source.shape.family
    plan = PrunePlan(source=shape, target=shape, keep=Keep(layers=tuple(range(shape.num_hidden_layers)), indices={}))
    teacher_stack, student_stack = (MemoryStack(model, shape) for model in (trial.teacher, student))
    pair = Alignment(teacher=teacher_stack, student=student_stack, plan=plan)
    with masked(trial, student, live):
        apply_repaired(student, family, repair(pair, trial.repaired_on, trial.recipe.prune.repair))
    silence(trial, student, live)
    return student


def measured_costs(trial: Trial, steps: Sequence[int]) -> dict[int, list[float]]:
    """Layer -> cost of each width, in eighths; the whole width costs nothing.

    Nothing before the block changes, so its readers stay; its writer is refitted from one gram matrix for all widths.
    """
    student = copy.deepcopy(trial.teacher)
    grams = writer_grams(trial, student)
    return {
        layer: [trial.kl_at(student, layer, gram_FF, step * trial.step) for step in steps]
        for layer, gram_FF in grams.items()
    }


@torch.no_grad()
def writer_grams(trial: Trial, model: PreTrainedModel) -> dict[int, torch.Tensor]:
    """Layer -> [F, F] gram matrix of what enters the block's writer, on the text that repairs."""
    moments = {layer: Moments() for layer in trial.layers}
    blocks = blocks_of(model)

    def collect(layer: int) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        return lambda _, inputs: moments[layer].update((inputs[0], inputs[0]), None)

    hooks = [
        ffn_writer(trial, blocks[layer], layer).register_forward_pre_hook(collect(layer)) for layer in trial.layers
    ]
    for batch in trial.repaired_on.batches(8):
        model(batch.ids(model.device), use_cache=False)
    for hook in hooks:
        hook.remove()
    return {layer: found.gram for layer, found in moments.items()}


def ranked_steps(trial: Trial, total: int) -> list[int]:
    """Widths, in eighths, that keep the most of the scores of all blocks, by the same allocation."""
    costs = []
    for score_F in trial.scores.intermediate_size.values():
        kept_F = np.cumsum(-np.sort(-score_F))[trial.step - 1 :: trial.step]
        costs.append((-kept_F).tolist())
    found = allocate(costs, [[*range(1, EIGHTHS + 1)]] * len(costs), total)
    return [choice + 1 for choice in found.choices]


def run_seed(recipe: Recipe, plan: Comparison, costs: dict[int, list[float]] | None) -> dict[str, Any]:
    """Costs, measured unless they are given, and at every budget the widths and metrics of every arm."""
    trial, steps = prepare(recipe), [*range(1, EIGHTHS + 1)]
    started = time.monotonic()
    costs = costs or measured_costs(trial, steps)
    seconds = time.monotonic() - started
    print(f"seed {recipe.seed}: costs in {seconds:.0f} s: {costs}", flush=True)
    rows = []
    for budget in plan.budgets:
        total = budget * len(costs)
        found = allocate([*costs.values()], [steps] * len(costs), total)
        arms = {
            "uniform": [budget] * len(costs),
            "allocated": [steps[choice] for choice in found.choices],
            "ranked": ranked_steps(trial, total),
        }
        arms = {arm: chosen for arm, chosen in arms.items() if arm in plan.arms}
        row: dict[str, Any] = {"eighths": budget}
        for arm, chosen in arms.items():
            widths = {layer: step * trial.step for layer, step in zip(costs, chosen, strict=True)}
            student = repaired(trial, widths)
            summed = sum(costs[layer][step - 1] for layer, step in zip(costs, chosen, strict=True))
            row[arm] = {
                "steps": chosen,
                "sum_of_costs": summed,
                "sliced": trial.kl(cut(trial, widths)[0], trial.held_out),
                "repaired": trial.kl(student, trial.held_out),
            }
            if plan.tokens:
                row[arm]["distilled"] = distilled(trial, student, plan.tokens)
        print(f"seed {recipe.seed}: {row}", flush=True)
        rows.append(row)
    return {"costs": costs, "cost_seconds": seconds, "budgets": rows}


def distilled(trial: Trial, student: PreTrainedModel, tokens: int) -> float:
    """Held-out KL after distillation on so many tokens."""
    section = trial.recipe.distill.model_copy(update={"tokens": tokens, "phases": ()})
    evaluate = trial.recipe.evaluate.model_copy(update={"task": None})
    recipe = trial.recipe.model_copy(update={"distill": section, "evaluate": evaluate})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        metrics, _ = distill_and_measure(recipe, RunFolder(folder), student, trial.source, folder / "out", None)
    return kl_of(metrics)


def results_table(results: dict[int, dict[str, Any]]) -> Table:
    """A row a budget and arm: medians over seeds, and the ratios to equal widths with their range."""
    table = Table(title="FFN widths by block, equal FFN units; KL to the teacher, held-out text", title_justify="left")
    for column in ("FFN left", "widths", "sliced", "repaired", "distilled", "repaired ratio", "distilled ratio", "sum"):
        table.add_column(column, justify="right")
    for rows in zip(*(found["budgets"] for found in results.values()), strict=True):
        arms = [arm for arm in ARMS if arm in rows[0]]
        for arm in arms:
            each = [row[arm] for row in rows]
            cells = [f"{rows[0]['eighths'] / EIGHTHS:.1%}" if arm == arms[0] else "", arm]
            for key in ("sliced", "repaired", "distilled"):
                cells.append(f"{statistics.median(one[key] for one in each):.4f}" if key in each[0] else "-")
            for key in ("repaired", "distilled"):
                ratios = [row[arm][key] / row["uniform"][key] for row in rows if key in row[arm]]
                shown = f"{statistics.median(ratios):.3f} ({min(ratios):.3f}-{max(ratios):.3f})" if ratios else "-"
                cells.append(shown)
            cells.append(f"{statistics.median(one['sum_of_costs'] for one in each):.4f}")
            table.add_row(*cells, end_section=arm == arms[-1])
    return table


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--budgets", type=int, nargs="+", default=list(BUDGETS), help="eighths of the FFN that are left"
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="uniform is needed for ratios")
    parser.add_argument("--distill", type=int, default=0, metavar="TOKENS", help="also distill every student so long")
    parser.add_argument("--costs", type=Path, help="take the costs from the results (--json) of an earlier run")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args()
    results: dict[int, dict[str, Any]] = {}
    plan = Comparison(budgets=tuple(args.budgets), arms=tuple(args.arms), tokens=args.distill)
    earlier = json.loads(args.costs.read_text()) if args.costs else {}
    for seed in args.seeds:
        costs = {int(layer): cost_W for layer, cost_W in earlier[str(seed)]["costs"].items()} if earlier else None
        recipe = load_recipe(args.recipe, (*args.set, f"seed={seed}"))
        if recipe.prune.repair is None:
            recipe = recipe.model_copy(update={"prune": PruneSection(repair=RepairSection())})
        results[seed] = run_seed(recipe, plan, costs)
        if args.json:
            args.json.write_text(json.dumps(results, indent=2))
    Console(width=150).print(results_table(results))


if __name__ == "__main__":
    main()
