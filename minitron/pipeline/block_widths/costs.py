"""What an FFN width costs a block, measured.

A cost is the KL to the model that is cut, on calibration text, of that model with one block cut to its best neurons and
what writes its FFN's output refitted in closed form. Nothing before the block changes, so that one gram matrix serves
all widths of a block.
"""

# B samples, T tokens, D hidden, F ffn, C kept neurons, W widths

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.data.samples import Samples
from minitron.evaluate.perplexity import evaluate_text
from minitron.evaluate.teacher_states import TeacherStates
from minitron.importance.scores import Scores
from minitron.importance.selection import top_units
from minitron.models.axes import Indices
from minitron.pipeline.calibration import read_samples
from minitron.pipeline.context import Execution
from minitron.prune.reconstruction.moments import Moments
from minitron.prune.reconstruction.ridge import refit
from minitron.recipe.prune import BlockWidthsSection, CalibrationSection
from minitron.runtime.backbone import blocks_of, last_hidden_states
from minitron.runtime.hooks import collecting, site_of
from minitron.runtime.loading import load_model


class WidthCosts:
    """Measures what a width costs a block of a checkpoint.

    Args:
        source: The checkpoint that is cut; it is held in memory twice.
        scores: Its scores, which say which neurons are the best.
        section: The text, and how much of it.
        execution: Device and seed.
    """

    def __init__(self, source: Checkpoint, scores: Scores, section: BlockWidthsSection, execution: Execution) -> None:
        self._shape, self._scores, self._section = source.shape, scores, section
        self._teacher, self._student = (load_model(source.folder, device=execution.device) for _ in range(2))
        text = CalibrationSection(
            data=section.data, samples=section.samples + section.sequences, seq_len=section.seq_len
        )
        found = read_samples(text, source, seed=execution.seed)
        self._fitted_on = found.first(section.samples)
        self._measured_on = Samples(token_ids=found.token_ids[section.samples :])
        self._against = TeacherStates(self._teacher)  # of one text, which all widths of all blocks are measured on

    @torch.no_grad()
    def of_block(self, layer: int, widths: Sequence[int]) -> list[float]:
        """The cost of each width of one block, in nats a token."""
        score_F = self._scores.intermediate_size[layer]
        writer, moments = self._writer(layer), self._moments(layer)
        whole_DF = writer.weight.detach().clone()
        costs = []
        for width in widths:
            if width == len(score_F):
                costs.append(0.0)
                continue
            writer.weight.copy_(self._refitted(whole_DF, moments.gram.cpu(), top_units(score_F, width)))
            found = evaluate_text(self._student, self._measured_on.token_ids, teacher=self._against).kl_to_teacher
            assert found is not None
            costs.append(found)
        writer.weight.copy_(whole_DF)
        return costs

    def _refitted(self, whole_DF: torch.Tensor, gram_FF: torch.Tensor, kept: Indices) -> torch.Tensor:
        """[D, F] writer of which only the kept columns are left, refitted to what all of them gave."""
        gone = torch.from_numpy(np.setdiff1d(np.arange(len(gram_FF)), kept))
        kept_C = torch.from_numpy(kept)
        own_DF = torch.zeros_like(whole_DF)
        cross_DC = whole_DF.cpu()[:, gone].double() @ gram_FF[gone][:, kept_C]
        fitted_DC = refit(whole_DF[:, kept_C], cross_DC, gram_FF[kept_C][:, kept_C], self._section.ridge)
        own_DF[:, kept_C] = fitted_DC.to(own_DF)
        return own_DF

    def _moments(self, layer: int) -> Moments:
        """The second moments of what enters a block's writer, in the whole model."""
        kind = self._shape.hybrid_override_pattern[layer]
        site = site_of(self._shape.family.hook_points["ffn"][kind][0], kind, self._shape)
        moments = Moments()
        with collecting([(blocks_of(self._teacher)[layer], site, _Gram(moments))]):
            for batch in self._fitted_on.batches(self._section.batch_size):
                last_hidden_states(self._teacher, batch.ids(self._teacher.device))
        return moments

    def _writer(self, layer: int) -> nn.Linear:
        kind = self._shape.hybrid_override_pattern[layer]
        writer = blocks_of(self._student)[layer].get_submodule(self._shape.family.hook_points["ffn"][kind][0].module)
        assert isinstance(writer, nn.Linear)
        return writer


class _Gram:
    """Feeds moments with an activation as its own target."""

    def __init__(self, moments: Moments) -> None:
        self._moments = moments

    def update(self, activations: tuple[torch.Tensor, ...], mask_BT: torch.Tensor | None) -> None:
        self._moments.update((activations[0], activations[0]), mask_BT)
