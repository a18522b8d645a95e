"""What each setting of repair brings and costs: KL right after the cut, seconds of processor time, peak memory.

    python benchmarks/repair_settings.py examples/quickstart/widths.yaml --shapes 128,320,12,12 \
        --settings samples=64 samples=512 samples=128,epochs=3,rate=0.03
    python benchmarks/repair_settings.py benchmarks/second_teacher.yaml --shapes 160,320,16,14 --settings ...

The teacher is scored as the recipe says, and each shape (hidden size, FFN width, Mamba heads, blocks) cut once by the
scores. Every setting then repairs a copy of that student on the recipe's calibration text, in memory, with what it
leaves out at its default. The KL to the teacher is on the recipe's held-out text.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from arms import held_out_ids
from rich.console import Console
from rich.table import Table

from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.evaluate.perplexity import evaluate_text
from minitron.importance.scores import Scores
from minitron.pipeline.blocks import kept_blocks
from minitron.pipeline.calibration import read_samples
from minitron.pipeline.pruning import Cut
from minitron.pipeline.scoring import score_folder
from minitron.pipeline.sections import prune_section
from minitron.prune.in_memory import prune_model
from minitron.prune.plan import PrunePlan
from minitron.prune.reconstruction.alignment import Alignment
from minitron.prune.reconstruction.blockwise import apply_repaired, repair
from minitron.recipe.load import load_recipe
from minitron.recipe.prune import PruneSection, RepairSection
from minitron.recipe.recipe import Recipe
from minitron.runtime.loading import load_model
from minitron.runtime.stack import MemoryStack
from minitron.units import GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A recipe, its teacher, and the teacher's scores."""

    recipe: Recipe
    source: Checkpoint
    teacher: Any
    scores: Scores
    held_out_NT: Any

    def plan(self, sizes: tuple[int, ...]) -> PrunePlan:
        """The best units of a shape."""
        hidden, ffn, heads, blocks = sizes
        layers = kept_blocks(self.recipe, self.source.shape, self.scores.depth, blocks)
        mamba = {"mamba_num_heads": heads} if heads else {}
        target = self.source.shape.resized(layers=layers, hidden_size=hidden, intermediate_size=ffn, **mamba)
        return Cut(source=self.source, scores=self.scores, target=target, layers=layers).plan

    def kl(self, student: Any) -> float:
        """KL to the teacher on held-out text."""
        found = evaluate_text(student, self.held_out_NT, teacher=self.teacher).kl_to_teacher
        assert found is not None
        return found


def scored(recipe: Recipe, folder: Path) -> Scored:
    """Scores a recipe's teacher."""
    place = Path(recipe.teacher)
    return Scored(
        recipe=recipe,
        source=open_checkpoint(place),
        teacher=load_model(place, device=recipe.device),
        scores=score_folder(place, recipe.score, folder, seed=recipe.seed, device=recipe.device),
        held_out_NT=held_out_ids(recipe),
    )


def repaired(known: Scored, plan: PrunePlan, given: dict[str, Any]) -> dict[str, float]:
    """KL, seconds of processor time and peak resident bytes so far of one setting."""
    wanted = known.recipe.model_copy(update={"prune": PruneSection(repair=RepairSection(**given))})
    section = prune_section(wanted).repair
    assert section is not None
    samples = read_samples(section, known.source, seed=known.recipe.seed)
    student = prune_model(known.teacher, plan)
    pair = Alignment(
        teacher=MemoryStack(known.teacher, plan.source), student=MemoryStack(student, plan.target), plan=plan
    )
    started = time.process_time()
    apply_repaired(student, plan.target.family, repair(pair, samples, section))
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"kl": known.kl(student), "seconds": seconds, "peak": peak}


def rows(known: Scored, shapes: list[tuple[int, ...]], settings: list[str]) -> Iterator[dict[str, Any]]:
    """Each shape plain, then with every setting."""
    for sizes in shapes:
        plan = known.plan(sizes)
        plain = known.kl(prune_model(known.teacher, plan))
        yield {"shape": sizes, "settings": "plain", "kl": plain, "ratio": 1.0}
        for each in settings:
            given = {key: yaml.safe_load(value) for key, value in (pair.split("=") for pair in each.split(","))}
            found = repaired(known, plan, given)
            yield {"shape": sizes, "settings": each, **found, "ratio": plain / found["kl"]}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--shapes", nargs="+", required=True, metavar="HIDDEN,FFN,HEADS,BLOCKS", help="0 heads: none")
    parser.add_argument("--settings", nargs="+", default=["samples=128"], metavar="NAME=VALUE,NAME=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe")
    parser.add_argument("--json", type=Path, help="also write the results here")
    args = parser.parse_args()
    shapes = [tuple(map(int, shape.split(","))) for shape in args.shapes]
    table = Table(title=f"{args.recipe}, {torch.get_num_threads()} threads", title_justify="left")
    for column in ("seed", "shape", "settings", "KL", "ratio", "CPU s", "peak GiB"):
        table.add_column(column, justify="left" if column in ("shape", "settings") else "right")
    results = []
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as name:
            known = scored(load_recipe(args.recipe, (*args.set, f"seed={seed}")), Path(name))
            for row in rows(known, shapes, args.settings):
                print(json.dumps({"seed": seed, **row}), flush=True)
                results.append({"seed": seed, **row})
                cost = (f"{row['seconds']:.0f}", f"{row['peak'] / GIB:.2f}") if "seconds" in row else ("-", "-")
                sizes = "/".join(map(str, row["shape"]))
                table.add_row(str(seed), sizes, row["settings"], f"{row['kl']:.4f}", f"{row['ratio']:.2f}x", *cost)
    Console(width=120).print(table)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
