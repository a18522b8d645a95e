"""FFN widths by block in the pipeline: what a width costs, which widths are chosen, and a whole run with them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitron.checkpoints.checkpoint import PLAN_FILE, open_checkpoint
from minitron.data.samples import blend_samples
from minitron.data.sources import TextSource
from minitron.errors import MinitronError
from minitron.importance.scores import random_scores
from minitron.pipeline.block_widths.choice import choose_widths
from minitron.pipeline.block_widths.costs import WidthCosts
from minitron.pipeline.context import Execution
from minitron.pipeline.preflight import check_recipe
from minitron.pipeline.run_folder import RunFolder
from minitron.pipeline.runner import run_pipeline
from minitron.prune.plan import load_plan
from minitron.recipe.load import load_recipe
from minitron.recipe.prune import BlockWidthsSection
from minitron.recipe.source import Source
from minitron.runtime.backbone import blocks_of
from minitron.runtime.loading import load_model, load_tokenizer
from tests.support.models import make_dense_shape, make_moe_shape
from tests.support.recipes import write_tiny_recipe

WIDTHS = "prune.block_widths={samples: 3, sequences: 2, steps: 6}"


@given(
    costs=st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=1, max_size=4),
    mean=st.integers(1, 9),
)
def test_chosen_widths_have_the_mean_and_cost_no_more_than_equal_ones(costs: list[list[float]], mean: int) -> None:
    widths = sorted({2, 5, mean, 9})
    falling = [sorted(cost_W, reverse=True)[: len(widths)] for cost_W in costs]  # a wider block is not worse
    chosen = choose_widths(falling, widths, mean)
    assert sum(chosen) == mean * len(costs)
    assert max(chosen) <= 9

    def cost(own: list[int]) -> float:  # what is between two choices costs no more than the lower one
        return sum(
            cost_W[max(n for n, width in enumerate(widths) if width <= at)]
            for cost_W, at in zip(falling, own, strict=True)
        )

    assert cost(chosen) <= cost([mean] * len(costs)) + 1e-12


def test_a_cost_is_the_kl_of_one_block_cut_and_refitted_by_least_squares(tmp_path: Path) -> None:
    write_tiny_recipe(tmp_path)
    source = open_checkpoint(tmp_path / "teacher")
    scores, text = random_scores(source.shape, seed=1), Source(path=str(tmp_path / "text.txt"))
    section = BlockWidthsSection(data=(text,), samples=6, sequences=3, seq_len=16, ridge=1e-9)
    layer, width = source.shape.ffn_layers[1], 11
    costs = WidthCosts(source, scores, section, Execution(seed=5)).of_block(layer, [width, 36])
    assert costs[1] == 0.0

    teacher = load_model(source.folder, dtype=torch.float64)
    student = load_model(source.folder, dtype=torch.float64)
    samples = blend_samples(
        [TextSource(path=text.path)],
        load_tokenizer(source.folder),
        seq_len=16,
        num_samples=9,
        seed=5,
        packed=True,
    )
    ids_BT = torch.from_numpy(samples.token_ids).long()
    entering = []
    writer = blocks_of(teacher)[layer].get_submodule("mixer.down_proj")
    hook = writer.register_forward_pre_hook(lambda _, inputs: entering.append(inputs[0].detach()))
    with torch.no_grad():
        teacher(ids_BT[:6])
    hook.remove()
    inputs_NF = entering[0].flatten(0, 1).numpy()
    kept = np.argsort(-scores.intermediate_size[layer], kind="stable")[:width]
    outputs_ND = inputs_NF @ writer.weight.detach().numpy().T  # type: ignore[operator]
    fitted_CD = np.linalg.lstsq(inputs_NF[:, kept], outputs_ND, rcond=None)[0]
    own = blocks_of(student)[layer].get_submodule("mixer.down_proj")
    with torch.no_grad():
        own.weight.zero_()  # type: ignore[operator]
        own.weight[:, kept] = torch.from_numpy(fitted_CD.T)  # type: ignore[index]
        log_p, log_q = (model(ids_BT[6:]).logits[:, :-1].log_softmax(-1) for model in (teacher, student))
    expected = float((log_p.exp() * (log_p - log_q)).sum(-1).mean())
    assert costs[0] == pytest.approx(expected, rel=1e-3)
    assert expected > 1e-3


@pytest.mark.parametrize("model_type", ["nemotron_h", "llama"])
def test_a_run_with_block_widths_ends_with_a_student_of_the_chosen_size(tmp_path: Path, model_type: str) -> None:
    shape = None if model_type == "nemotron_h" else make_dense_shape("llama", intermediate_size=36)
    path = write_tiny_recipe(tmp_path, shape, {"intermediate_size": [18, 12]})
    recipe = load_recipe(path, (WIDTHS, "prune.repair={samples: 2}", "budget.memory_bytes=100000000"))
    for _ in run_pipeline(recipe, tmp_path / "run"):
        pass
    run = RunFolder(tmp_path / "run")
    wanted = run.read_candidates().candidates[0].shape
    student = open_checkpoint(run.path / "distill" / "checkpoint").shape
    assert len(student.block_widths) == len(student.ffn_layers)
    assert sum(student.block_widths) == wanted.intermediate_size * len(student.ffn_layers)
    assert student.params == wanted.params
    assert run.read_metrics()["distilled"].params == wanted.params
    plan = load_plan(run.pruned.with_name(PLAN_FILE))
    assert plan.target == student
    again = {outcome.name: outcome.skipped for outcome in run_pipeline(recipe, tmp_path / "run")}
    assert all(again.values())


@pytest.mark.parametrize("shape", [make_moe_shape(), make_dense_shape("qwen3")], ids=["experts", "qwen3"])
def test_families_without_classes_are_refused_before_anything_runs(tmp_path: Path, shape: object) -> None:
    path = write_tiny_recipe(tmp_path, shape, {"intermediate_size": [18]})  # type: ignore[arg-type]
    with pytest.raises(MinitronError, match="leave prune.block_widths out"):
        check_recipe(load_recipe(path, (WIDTHS, "budget.memory_bytes=100000000")))
