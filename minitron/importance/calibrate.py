"""Calibration: samples through a model in evaluation mode, every width statistic and depth score that was asked for.

A model in memory takes a batch through all of its blocks at a time; a layerwise one takes all batches through a block
at a time. Both feed the same collectors, so they give the same scores.
"""

# B samples, T tokens, D hidden, L blocks

import hashlib
import logging
import time
from pathlib import Path

import torch

from minitron.artifacts.resume import SavedState
from minitron.data.samples import Samples
from minitron.distributed import Ranks
from minitron.errors import MinitronError
from minitron.importance.block_statistics import BlockStatistic, StatisticsCollector
from minitron.importance.depth.greedy import logit_depth
from minitron.importance.depth.influence import BlockInfluence, influence_scores
from minitron.importance.experts import ExpertStatistic
from minitron.importance.finish import make_scores
from minitron.importance.scorers import make_scorers
from minitron.importance.scores import Scores
from minitron.importance.settings import CalibrationSettings
from minitron.importance.width import WidthStatistic
from minitron.models.shape import HybridShape
from minitron.progress import track
from minitron.runtime.hooks import State
from minitron.runtime.stack import Stack
from minitron.runtime.streams import FileStreams, MemoryStreams, Streams

logger = logging.getLogger(__name__)

STATE_FORMAT = 2  # of saved states; those of another one are not resumed from
SETTINGS = set(CalibrationSettings.model_fields)


@torch.no_grad()
def calibrate(
    stack: Stack,
    samples: Samples,
    settings: CalibrationSettings | None = None,
    *,
    ranks: Ranks | None = None,
    state_folder: Path | None = None,
) -> Scores:
    """Width and depth scores of a model over samples.

    With several processes each takes its share of the samples and all return the same scores. An interrupted call is
    resumed by the same call, with bit-identical scores.

    Args:
        stack: The teacher.
        samples: All samples, the same in every process.
        settings: What is measured and how.
        ranks: The processes; this one alone when None.
        state_folder: Where to save the state to resume from, and residual streams between blocks; the caller removes
            it. When None nothing is saved, and streams are held in memory.

    Raises:
        MinitronError: There are fewer samples than processes, or block quotas do not allow the removals asked for.
    """
    settings = settings or CalibrationSettings()
    ranks = ranks or Ranks()
    if len(samples) < ranks.world_size:
        raise MinitronError(f"there must be a sample for each of {ranks.world_size} processes, got {len(samples)}")
    if settings.depth.remove:
        pattern = stack.shape.hybrid_override_pattern
        settings.depth.quotas(stack.shape.family).check(pattern, len(pattern) - settings.depth.remove)
    started = time.monotonic()
    run = _Calibration(stack, samples.share(ranks.rank, ranks.world_size), settings, ranks, state_folder)
    depth_L, removed = run.run()
    logger.info(
        "calibrated on %d samples, %d tokens in %.1f s", len(samples), samples.num_tokens, time.monotonic() - started
    )
    return make_scores(run.statistics.scores, depth_L, removed, num_samples=len(samples), num_tokens=samples.num_tokens)


def statistics_of(settings: CalibrationSettings, shape: HybridShape) -> list[BlockStatistic]:
    """What is collected of every block: each axis's statistic, experts with them, and block influence."""
    found: list[BlockStatistic] = []
    scorers = make_scorers(settings.width)
    if scorers:
        found += [WidthStatistic(shape, scorers), ExpertStatistic(shape)]
    if settings.depth.scorer == "block_influence":
        found.append(BlockInfluence())
    return found


class _Calibration:
    """One process's share of a calibration."""

    def __init__(
        self, stack: Stack, samples: Samples, settings: CalibrationSettings, ranks: Ranks, state_folder: Path | None
    ) -> None:
        self._stack, self._samples, self._settings, self._ranks = stack, samples, settings, ranks
        identity = {
            "format": STATE_FORMAT,
            "samples": _fingerprint(samples),
            "shape": repr(stack.shape),
            "settings": settings.model_dump(mode="json", include=SETTINGS - {"save_every"}),
            "processes": ranks.world_size,
            "layerwise": not stack.whole,
            "device": stack.device.type,
        }
        self._saved, self._saved_as = SavedState(state_folder, identity), f"state-{ranks.rank}"
        self._streams_folder = None if state_folder is None else state_folder / f"streams-{ranks.rank}"
        self._batches = samples.batches(settings.batch_size)
        self._layers = range(stack.shape.num_hidden_layers)
        self._next = 0  # batch of a model in memory, block of a layerwise one
        self._depth_state: State = {}
        statistics = statistics_of(settings, stack.shape)
        self._collects = bool(statistics)
        self.statistics = StatisticsCollector(statistics)

    def run(self) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Does what is left to do; (depth scores, removed blocks)."""
        self._restore(self._saved.load_tensors(self._saved_as) or {})
        if self._collects and self._stack.whole:
            self._batch_by_batch()
        elif self._collects:
            self._block_by_block()
        if self._settings.depth.scorer == "block_influence":
            return influence_scores(self.statistics.scores, len(self._layers)), ()
        return self._depth_by_logits()

    def _batch_by_batch(self) -> None:
        blocks = list(self._stack.blocks(self._layers))
        saved = self._next
        todo = range(self._next, len(self._batches))
        for number in track(todo, "calibrate", total=len(todo)):
            batch = self._batches[number]
            mask_BT = batch.mask(self._stack.device)
            with self.statistics.collecting(blocks, mask_BT):
                self._stack.run(blocks, self._stack.embed(batch.ids(self._stack.device)), mask_BT)
            self._next = number + 1
            if (self._next - saved) * self._settings.batch_size >= self._settings.save_every:
                self._save()
                saved = self._next
        if self._next != saved:
            self._save()
        self.statistics.finish(blocks, self._ranks)

    def _block_by_block(self) -> None:
        streams = self._open_streams()
        if self._next == 0:
            for number, batch in enumerate(self._batches):
                streams.write(number, 0, self._stack.embed(batch.ids(self._stack.device)))
        todo = range(self._next, len(self._layers))
        for block in track(self._stack.blocks(todo), "calibrate", total=len(todo)):
            layer = block[0]
            for number, batch in enumerate(self._batches):
                mask_BT = batch.mask(self._stack.device)
                with self.statistics.collecting([block], mask_BT):
                    after_BTD = self._stack.run([block], streams.read(number, layer), mask_BT)
                if layer + 1 < len(self._layers):
                    streams.write(number, layer + 1, after_BTD)
            self.statistics.finish([block], self._ranks)
            self.statistics.forget(layer)
            self._next = layer + 1
            self._save()
            self._ranks.barrier()  # a process that was stopped before it saved may send the others back to this block
            streams.settle(self._next)

    def _depth_by_logits(self) -> tuple[torch.Tensor, tuple[int, ...]]:
        samples, settings = self._samples, self._settings.depth
        if settings.samples is not None:
            taken = range(self._ranks.rank, settings.samples, self._ranks.world_size)
            samples = samples.first(len(taken))
        batches = samples.batches(self._settings.batch_size)
        size = 1 if self._stack.whole else settings.batches_at_once
        chunks = [batches[start : start + size] for start in range(0, len(batches), size)]

        def save(state: State) -> None:
            self._depth_state = state
            self._save()

        return logit_depth(self._stack, chunks, settings, self._ranks, state=self._depth_state, save=save)

    def _open_streams(self) -> Streams:
        if self._streams_folder is None:
            return MemoryStreams(len(self._batches))
        return FileStreams(self._streams_folder, len(self._batches), device=self._stack.device)

    def _save(self) -> None:
        state = self.statistics.state() | self._depth_state
        self._saved.save_tensors(self._saved_as, state | {"next": torch.tensor(self._next)})

    def _restore(self, state: State) -> None:
        self._next = int(state.get("next", 0))
        before = len(self._layers)
        if not self._stack.whole:  # blocks are finished by all processes together
            self._next = before = self._ranks.min(self._next)
        if state:
            self.statistics.restore(state, before=before, device=self._stack.device)
            self._depth_state = {name: value for name, value in state.items() if name.startswith("depth/")}


def _fingerprint(samples: Samples) -> str:
    digest = hashlib.sha256(samples.token_ids.tobytes())
    if samples.lengths is not None:
        digest.update(samples.lengths.tobytes())
    return digest.hexdigest()
