"""Measuring candidates: pruned in memory and compared with the teacher at once, or after a short distillation."""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from minitron.distill import distill
from minitron.evaluate import evaluate_text
from minitron.hybrid.blocks import TokenBlocks, blend_sources
from minitron.hybrid.checkpoint import Checkpoint
from minitron.hybrid.model import load_model, load_tokenizer
from minitron.hybrid.progress import track
from minitron.hybrid.weights import write_json
from minitron.importance import Scores, select_units
from minitron.prune import PrunePlan, prune_model
from minitron.recipe import Recipe
from minitron.search import Candidate
from minitron.search.tournament import Standing, run_tournament
from minitron.stages.data import text_sources
from minitron.stages.distill import distill_settings
from minitron.stages.files import STATE_FOLDER

logger = logging.getLogger(__name__)

STANDINGS_FILE = "standings.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A candidate and what was measured of it.

    Attributes:
        candidate: The candidate.
        zero_shot: `loss` and `kl` right after pruning; None when not measured.
        standings: After each round of a tournament that it was in.
    """

    candidate: Candidate
    zero_shot: Mapping[str, float] | None = None
    standings: tuple[Standing, ...] = ()


def measure_candidates(
    recipe: Recipe, source: Checkpoint, scores: Scores, candidates: Sequence[Candidate], output: Path
) -> list[Measured]:
    """Measures candidates as the recipe's `search.choose` says and sorts them, best first.

    Args:
        recipe: The recipe.
        source: The checkpoint that is cut.
        scores: Its scores.
        candidates: What to measure.
        output: Folder under which a tournament saves its state; an interrupted one is gone on with.
    """
    bench = _Bench(recipe, source, scores)
    zero_shot = [bench.zero_shot(candidate) for candidate in track(candidates, "zero-shot", total=len(candidates))]
    if recipe.search.choose == "zero_shot":
        order: Sequence[int] = sorted(range(len(candidates)), key=lambda index: zero_shot[index]["kl"])
        standings: Sequence[tuple[Standing, ...]] = [()] * len(candidates)
    else:
        order, standings = _tournament(recipe, bench, candidates, output / STATE_FOLDER)
    return [
        Measured(candidate=candidates[index], zero_shot=zero_shot[index], standings=standings[index]) for index in order
    ]


class _Bench:
    """What is cut, the teacher, and the distillation's text: what is trained on and, behind it, what is judged by."""

    def __init__(self, recipe: Recipe, source: Checkpoint, scores: Scores) -> None:
        section, rounds = recipe.distill, recipe.search.tournament
        self.recipe, self.source, self.scores = recipe, source, scores
        self.teacher = load_model(Path(recipe.teacher), device=recipe.device)
        is_teacher = source.folder.resolve() == Path(recipe.teacher).resolve()
        self.model = self.teacher if is_teacher else load_model(source.folder, device=recipe.device)
        train = max(rounds.tokens, default=0) // section.seq_len
        blocks_NT = blend_sources(
            text_sources(section.data),
            load_tokenizer(source.folder),
            seq_len=section.seq_len,
            num_blocks=train + rounds.blocks,
            seed=recipe.seed,
        )
        self.train_NT: TokenBlocks = blocks_NT[:train]
        self.held_out_NT: TokenBlocks = blocks_NT[train:]

    def prune(self, candidate: Candidate) -> PreTrainedModel:
        """The candidate as a model."""
        shape = self.source.shape
        keep = select_units(self.scores, shape, candidate.shape, candidate.layers)
        return prune_model(self.model, self.source, PrunePlan(source=shape, target=candidate.shape, keep=keep))

    def measure(self, student: PreTrainedModel) -> dict[str, float]:
        """Loss, and KL to the teacher, on the text that is judged by."""
        found = evaluate_text(student, self.held_out_NT, teacher=self.teacher)
        assert found.kl_to_teacher is not None
        return {"loss": found.loss, "kl": found.kl_to_teacher}

    def zero_shot(self, candidate: Candidate) -> dict[str, float]:
        """Loss and KL right after pruning."""
        return self.measure(self.prune(candidate))


def _tournament(
    recipe: Recipe, bench: _Bench, candidates: Sequence[Candidate], folder: Path
) -> tuple[Sequence[int], Sequence[tuple[Standing, ...]]]:
    folder.mkdir(parents=True, exist_ok=True)
    known = _read_standings(folder / STANDINGS_FILE)

    def play(index: int, tokens: int) -> Standing:
        student = bench.prune(candidates[index])
        record = distill(
            student,
            bench.teacher,
            bench.train_NT,
            distill_settings(recipe.distill),
            state_folder=_candidate_folder(folder, index),
            seed=recipe.seed,
            stop_after_tokens=tokens,
        )
        standing = Standing(tokens=record.tokens, loss=bench.measure(student)["kl"], curve=record.curve)
        known[index, tokens] = standing
        _write_standings(folder / STANDINGS_FILE, known)
        logger.info("candidate %d after %d tokens: KL %.4f", index, record.tokens, standing.loss)
        return standing

    result = run_tournament(
        len(candidates),
        play,
        tokens=recipe.search.tournament.tokens,
        keep=recipe.search.tournament.keep,
        known=known,
        left=lambda index: shutil.rmtree(_candidate_folder(folder, index), ignore_errors=True),
    )
    shutil.rmtree(folder)
    return result.order, result.standings


def _candidate_folder(folder: Path, index: int) -> Path:
    return folder / f"candidate-{index}"


def _read_standings(path: Path) -> dict[tuple[int, int], Standing]:
    if not path.is_file():
        return {}
    entries: list[dict[str, Any]] = json.loads(path.read_text())["standings"]
    return {
        (entry["candidate"], entry["round_tokens"]): Standing(
            tokens=entry["tokens"],
            loss=entry["loss"],
            curve=tuple((int(tokens), float(loss)) for tokens, loss in entry["curve"]),
        )
        for entry in entries
    }


def _write_standings(path: Path, known: Mapping[tuple[int, int], Standing]) -> None:
    entries = [
        {"candidate": index, "round_tokens": tokens, **asdict(standing)} for (index, tokens), standing in known.items()
    ]
    partial = path.with_name(path.name + ".partial")
    write_json(partial, {"standings": entries})
    partial.replace(path)
