"""Every family through the whole pipeline, each of its axes cut: what its declarations mean to stages together."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.cli.main import main
from minitron.models.families import FAMILIES
from minitron.models.shape import HybridShape
from minitron.pipeline.run_folder import RunFolder
from minitron.report.tables import candidates_table
from minitron.runtime.loading import count_params
from tests.support.models import make_dense_shape, make_moe_shape
from tests.support.recipes import write_tiny_recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A teacher, and the sizes of its student: smaller along every axis.

    Attributes:
        shape: The teacher's.
        sizes: The student's sizes.
        layers: Blocks that the student keeps.
    """

    shape: HybridShape
    sizes: Mapping[str, int]
    layers: int


NARROW = {"hidden_size": 20, "num_attention_heads": 4, "num_key_value_heads": 2}
NARROW_DENSE = {**NARROW, "intermediate_size": 29}
EXPERTS = {"n_routed_experts": 15, "num_experts_per_tok": 4, "moe_intermediate_size": 11}
FEWER_EXPERTS = {"n_routed_experts": 9, "moe_intermediate_size": 8}
SHARED, NARROW_SHARED = {"moe_shared_expert_intermediate_size": 13}, {"moe_shared_expert_intermediate_size": 10}
# Heads times channels are a whole number times the hidden size.
MAMBA = {"mamba_num_heads": 6, "mamba_head_dim": 8, "n_groups": 2, "ssm_state_size": 7, "conv_kernel": 4}
NARROW_MAMBA = {"mamba_num_heads": 4, "mamba_head_dim": 5}
DELTA = {
    "head_dim": 16,  # a quarter of the channels turn, in pairs
    "linear_num_key_heads": 3,
    "linear_num_value_heads": 9,
    "linear_key_head_dim": 5,
    "linear_value_head_dim": 7,
    "linear_conv_kernel_dim": 4,
}
NARROW_DELTA = {**NARROW, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
WINDOW = {"sliding_window": 4}
TIED = {"tie_word_embeddings": 1}
NO_MLP = {"intermediate_size": 0}


def _cut(model_type: str, pattern: str, sizes: Mapping[str, int], cut: Mapping[str, int]) -> Cut:
    shape = make_dense_shape(model_type, hybrid_override_pattern=pattern, **sizes)
    return Cut(shape=shape, sizes=cut, layers=len(pattern) - 1)


CUTS = {
    "nemotron_h": Cut(
        shape=make_moe_shape(moe_latent_size=12),
        sizes={
            **NARROW,
            **FEWER_EXPERTS,
            **NARROW_SHARED,
            "intermediate_size": 28,
            "mamba_num_heads": 6,
            "mamba_head_dim": 4,
        },
        layers=5,
    ),
    "llama": _cut("llama", "TTT", {}, NARROW_DENSE),
    "mistral": _cut("mistral", "SSS", WINDOW, NARROW_DENSE),
    "qwen2": _cut("qwen2", "TTT", TIED, NARROW_DENSE),
    "qwen3": _cut("qwen3", "TTT", TIED, NARROW_DENSE),
    "smollm3": _cut("smollm3", "TTNT", TIED, NARROW_DENSE),
    "gemma3_text": _cut("gemma3_text", "SST", {**WINDOW, **TIED}, NARROW_DENSE),
    "granitemoehybrid": _cut(
        "granitemoehybrid",
        "HTH",
        {**NO_MLP, **MAMBA, **EXPERTS, **SHARED},
        {**NARROW, **FEWER_EXPERTS, **NARROW_SHARED, **NARROW_MAMBA},
    ),
    "bamba": _cut("bamba", "HTH", MAMBA, {**NARROW_DENSE, **NARROW_MAMBA}),
    "qwen3_moe": _cut("qwen3_moe", "XTX", EXPERTS, {**NARROW_DENSE, **FEWER_EXPERTS}),
    "qwen3_5_text": _cut("qwen3_5_text", "GTG", DELTA, {**NARROW_DELTA, "intermediate_size": 29}),
    "qwen3_5_moe_text": _cut(
        "qwen3_5_moe_text",
        "GTG",
        {**NO_MLP, **DELTA, **EXPERTS, **SHARED},
        {**NARROW_DELTA, **FEWER_EXPERTS, **NARROW_SHARED},
    ),
}
STEPS = (
    "score.layerwise=true",
    "prune.repair={samples: 4, layerwise: true}",
    "distill.tokens=768",
    "distill.learning_rate=0.003",
    "evaluate.task=null",
)


def test_every_axis_of_every_family_is_cut() -> None:
    assert set(CUTS) == set(FAMILIES)
    for cut in CUTS.values():
        axes = {axis.name for axis in cut.shape.family.axes.values() if cut.shape.sizes[axis.name]}
        assert axes == set(cut.sizes) == set(cut.shape.family.axes)
        assert all(size < cut.shape.sizes[axis] for axis, size in cut.sizes.items())


@pytest.mark.parametrize("model_type", CUTS)
def test_a_student_cut_along_every_axis_is_what_was_planned_and_learns(
    tmp_path: Path, model_type: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = CUTS[model_type]
    sizes = {axis: [size] for axis, size in cut.sizes.items()} | {"num_hidden_layers": [cut.layers]}
    recipe, run = write_tiny_recipe(tmp_path, cut.shape, sizes), tmp_path / "run"
    # What a random model learns of one text says little of others.
    (tmp_path / "heldout.txt").write_text("\n---\n".join(f"line {i} of some text" for i in range(60, 99)))
    changes = [word for step in STEPS for word in ("--set", step)]
    assert main(["run", str(recipe), "--output", str(run), "--json", *changes]) == 0
    result = json.loads(capsys.readouterr().out)
    planned = RunFolder(run).read_candidates().candidates[0]
    for stage in ("prune", "distill"):
        written = open_checkpoint(run / stage / "checkpoint")
        assert written.shape == planned.shape
        assert {axis: written.shape.sizes[axis] for axis in cut.sizes} == cut.sizes
        assert written.shape.num_hidden_layers == cut.layers
        assert written.params == planned.params == written.shape.params < cut.shape.params
    titles = [column.header for column in candidates_table(RunFolder(run).read_candidates()).columns]
    assert ("Mamba heads" in titles) == bool(cut.shape.mamba_num_heads)
    model, info = AutoModelForCausalLM.from_pretrained(written.folder, output_loading_info=True)
    assert not any(names for names in info.values())
    assert count_params(model) == planned.params
    inputs = AutoTokenizer.from_pretrained(written.folder)("line", return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False).shape == (1, 7)
    kl = {name: metrics["kl_to_teacher"] for name, metrics in result["metrics"].items()}
    assert isfinite(kl["distilled"])
    assert kl["teacher"] == pytest.approx(0, abs=1e-6)
    assert kl["distilled"] <= kl["pruned"]
