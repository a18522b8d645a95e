"""Measures candidates: pruned in memory and compared with the teacher at once, or after a short distillation."""

import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from transformers import PreTrainedModel

from minitron.artifacts.json_files import read_record, write_json
from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.vocabulary import require_one_vocabulary
from minitron.data.packing import write_sequence_file
from minitron.data.sources import Blend
from minitron.data.token_ids import require_model_ids
from minitron.distill.teachers.online import OnlineTeacher
from minitron.distill.training.stage import TrainingRun, distill
from minitron.errors import NotFiniteError
from minitron.evaluate.perplexity import evaluate_text
from minitron.importance.scores import Scores
from minitron.importance.selection import select_units
from minitron.pipeline.fingerprints import data_hashes
from minitron.pipeline.text import text_sources
from minitron.pipeline.training import objective_of, train_settings
from minitron.progress import track
from minitron.prune.in_memory import prune_model
from minitron.prune.plan import PrunePlan
from minitron.recipe.recipe import Recipe
from minitron.runtime.loading import load_model, load_tokenizer
from minitron.search.record import ZeroShot
from minitron.search.solver import Candidate
from minitron.search.tournament import Standing, TournamentResult, run_tournament

logger = logging.getLogger(__name__)

MEASURED_FILE = "measured.json"
SEQUENCES_FILE = "text.tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A candidate and what was measured of it.

    Attributes:
        candidate: The candidate.
        zero_shot: Loss and KL right after pruning; None when not measured.
        standings: After each round of a tournament that it was in.
    """

    candidate: Candidate
    zero_shot: ZeroShot | None = None
    standings: tuple[Standing, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _MeasuredFile:
    """State to resume from: entries of (candidate, result) and ((candidate, tokens), result)."""

    zero_shot: tuple[tuple[int, ZeroShot], ...] = ()
    standings: tuple[tuple[tuple[int, int], Standing], ...] = ()


def measure_candidates(
    recipe: Recipe, source: Checkpoint, scores: Scores, candidates: Sequence[Candidate], folder: Path
) -> list[Measured]:
    """Measures candidates as the recipe's `search.choose` says and sorts them, best first.

    Args:
        recipe: The recipe.
        source: The checkpoint that is cut.
        scores: Its scores.
        candidates: What to measure.
        folder: Where every result and the trainer's states are saved; an interrupted call is resumed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bench, progress = _Bench(recipe, source, scores, folder), _Progress(folder / MEASURED_FILE)
    for index in track(range(len(candidates)), "zero-shot", total=len(candidates)):
        if index not in progress.zero_shot:
            progress.zero_shot[index] = bench.measure(bench.prune(candidates[index]))
            progress.save()
    if recipe.search.choose == "zero_shot":
        order: Sequence[int] = sorted(range(len(candidates)), key=lambda index: progress.zero_shot[index].kl)
        standings: Sequence[tuple[Standing, ...]] = [()] * len(candidates)
    else:
        result = _tournament(recipe, bench, candidates, progress, folder)
        order, standings = result.order, result.standings
    return [
        Measured(candidate=candidates[index], zero_shot=progress.zero_shot[index], standings=standings[index])
        for index in order
    ]


class _Bench:
    """Models and text that candidates are measured with.

    The first phase's text is packed once: training sequences first, held-out ones behind them. Text that is too short
    for both is repeated, with a warning.
    """

    def __init__(self, recipe: Recipe, source: Checkpoint, scores: Scores, folder: Path) -> None:
        # A tournament is over within the first phase of a curriculum; hidden states and merging are left to it.
        section, rounds = recipe.distill.curriculum[0], recipe.search.tournament
        self.section = section
        self.source, self.scores = source, scores
        self.teacher = load_model(Path(recipe.teacher), device=recipe.device)
        is_teacher = source.folder.resolve() == Path(recipe.teacher).resolve()
        self.model = self.teacher if is_teacher else load_model(source.folder, device=recipe.device)
        require_one_vocabulary(Path(recipe.teacher), source.folder)
        train = max(rounds.tokens, default=0) // section.seq_len
        tokenizer = load_tokenizer(source.folder)
        sequences_NT = write_sequence_file(
            folder / SEQUENCES_FILE,
            Blend(
                sources=text_sources(section.data),
                seq_len=section.seq_len,
                num_sequences=train + rounds.sequences,
                seed=recipe.seed,
            ),
            tokenizer,
            made_from={"text": data_hashes(section.data)},
        )
        require_model_ids(sequences_NT, tokenizer, source.shape.vocab_size)
        self.train_NT = sequences_NT.part(0, train)
        self.held_out_NT = sequences_NT.part(train)

    def prune(self, candidate: Candidate) -> PreTrainedModel:
        """Prunes the source to a candidate, in memory."""
        shape = self.source.shape
        keep = select_units(self.scores, shape, candidate.shape, candidate.layers)
        return prune_model(self.model, PrunePlan(source=shape, target=candidate.shape, keep=keep))

    def measure(self, student: PreTrainedModel) -> ZeroShot:
        """Loss, and KL to the teacher, on the held-out sequences."""
        found = evaluate_text(student, self.held_out_NT, teacher=self.teacher)
        assert found.kl_to_teacher is not None
        return ZeroShot(loss=found.loss, kl=found.kl_to_teacher)


class _Progress:
    """Results so far, in a file that is replaced atomically; an interrupted search resumes from it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        found = read_record(path, _MeasuredFile) if path.is_file() else _MeasuredFile()
        self.zero_shot: dict[int, ZeroShot] = dict(found.zero_shot)
        self.standings: dict[tuple[int, int], Standing] = dict(found.standings)

    def save(self) -> None:
        kept = _MeasuredFile(zero_shot=tuple(self.zero_shot.items()), standings=tuple(self.standings.items()))
        write_json(self._path, asdict(kept))


def _tournament(
    recipe: Recipe, bench: _Bench, candidates: Sequence[Candidate], progress: _Progress, folder: Path
) -> TournamentResult:
    def play(index: int, tokens: int) -> Standing:
        student = bench.prune(candidates[index])
        try:
            # One process, one pass, and nothing for the trackers of the distillation itself.
            alone = {"sharding": "ddp", "epochs": 1, "report_to": ()}
            record = distill(
                student,
                OnlineTeacher(bench.teacher),
                bench.train_NT,
                train_settings(bench.section, objective_of(bench.section.loss)).model_copy(update=alone),
                TrainingRun(state_folder=_candidate_folder(folder, index), seed=recipe.seed, stop_after_tokens=tokens),
            )
            standing = Standing(tokens=record.tokens, loss=bench.measure(student).kl, curve=record.curve)
        except NotFiniteError as error:
            logger.warning("candidate %d leaves the tournament: %s", index, error)
            standing = Standing(tokens=tokens, loss=math.inf, curve=())
        progress.standings[index, tokens] = standing
        progress.save()
        logger.info("candidate %d after %d tokens: KL %.4f", index, standing.tokens, standing.loss)
        return standing

    return run_tournament(
        len(candidates),
        play,
        tokens=recipe.search.tournament.tokens,
        keep=recipe.search.tournament.keep,
        known=progress.standings,
        left=lambda index: shutil.rmtree(_candidate_folder(folder, index), ignore_errors=True),
    )


def _candidate_folder(folder: Path, index: int) -> Path:
    return folder / f"candidate-{index}"
