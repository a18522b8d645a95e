from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from minitron.checkpoints.checkpoint import checkpoint_hashes, open_checkpoint
from minitron.checkpoints.headers import SINGLE_FILE
from minitron.checkpoints.weights import open_weights
from minitron.models.keep import Keep
from minitron.models.shape import HybridShape
from minitron.prune.checkpoint import OutputFormat, prune_checkpoint
from minitron.prune.plan import PrunePlan, load_plan, save_plan
from minitron.prune.verification import check_params
from minitron.runtime.loading import count_params
from tests.support.models import write_tiny_checkpoint
from tests.support.plans import make_plan


def test_planned_counted_and_reloaded_parameters_agree(tmp_path: Path, tiny_checkpoint: Path) -> None:
    source = open_checkpoint(tiny_checkpoint)
    before = checkpoint_hashes(tiny_checkpoint)
    plan = make_plan(source.shape)
    written = prune_checkpoint(source, plan, tmp_path / "pruned")
    assert written.params == plan.target.params < source.params
    assert written.shape == plan.target
    assert checkpoint_hashes(tiny_checkpoint) == before


def test_the_pruned_checkpoint_loads_and_generates_in_plain_transformers(tmp_path: Path, tiny_checkpoint: Path) -> None:
    source = open_checkpoint(tiny_checkpoint)
    plan = make_plan(source.shape)
    prune_checkpoint(source, plan, tmp_path / "pruned")
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["mismatched_keys"]
    assert count_params(model) == plan.target.params
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "pruned")
    inputs = tokenizer("abc", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert output.shape == (1, 3 + 4)


def test_what_lay_beside_the_source_is_carried_or_named(
    tmp_path: Path, tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tiny_checkpoint / "chat_template.jinja").write_text("{{ messages }}")
    (tiny_checkpoint / "configuration_x.py").write_text("X = 1")
    (tiny_checkpoint / "original.gguf").write_bytes(b"GGUF")
    (tiny_checkpoint / "onnx").mkdir()
    source = open_checkpoint(tiny_checkpoint)
    pruned = prune_checkpoint(source, make_plan(source.shape), tmp_path / "pruned").folder
    assert (pruned / "chat_template.jinja").read_text() == "{{ messages }}"
    assert (pruned / "configuration_x.py").read_text() == "X = 1"
    (line,) = [record.getMessage() for record in caplog.records if "not carried along" in record.getMessage()]
    assert line.endswith(f"from {tiny_checkpoint}: onnx/, original.gguf")


def test_sharding_source_or_output_changes_no_tensor(tmp_path: Path, tiny_checkpoint: Path) -> None:
    single = open_checkpoint(tiny_checkpoint)
    sharded = open_checkpoint(write_tiny_checkpoint(tmp_path / "sharded", shard_bytes=15_000))
    plan = make_plan(single.shape)
    one = prune_checkpoint(single, plan, tmp_path / "one")
    many = prune_checkpoint(sharded, plan, tmp_path / "many", OutputFormat(shard_bytes=9_000))
    assert len({tensor.file for tensor in many.tensors.values()}) > 1
    with open_weights(one) as read_one, open_weights(many) as read_many:
        for name in one.tensors:
            torch.testing.assert_close(read_many(name), read_one(name), rtol=0, atol=0)


def test_the_stored_dtype_is_kept(tmp_path: Path) -> None:
    source = open_checkpoint(write_tiny_checkpoint(tmp_path / "bf16", dtype=torch.bfloat16))
    written = prune_checkpoint(source, make_plan(source.shape), tmp_path / "pruned")
    assert {tensor.dtype for tensor in written.tensors.values()} == {"BF16"}


def test_the_gate_refuses_a_checkpoint_that_is_not_the_planned_one(tmp_path: Path, tiny_checkpoint: Path) -> None:
    source = open_checkpoint(tiny_checkpoint)
    with pytest.raises(ValueError, match="parameters must agree: planned .*, counted in the files .*, loaded"):
        check_params(source, make_plan(source.shape))


def test_a_full_folder_is_not_written_over(tmp_path: Path, tiny_checkpoint: Path) -> None:
    source = open_checkpoint(tiny_checkpoint)
    (tmp_path / "pruned").mkdir()
    (tmp_path / "pruned" / SINGLE_FILE).write_text("mine")
    with pytest.raises(ValueError, match="must be new or empty"):
        prune_checkpoint(source, make_plan(source.shape), tmp_path / "pruned")
    assert (tmp_path / "pruned" / SINGLE_FILE).read_text() == "mine"


def test_a_plan_survives_its_file(tmp_path: Path, tiny_shape: HybridShape) -> None:
    plan = make_plan(tiny_shape)
    save_plan(plan, tmp_path / "plan.safetensors")
    loaded = load_plan(tmp_path / "plan.safetensors")
    assert (loaded.source, loaded.target, loaded.keep.layers) == (plan.source, plan.target, plan.keep.layers)
    assert set(loaded.keep.indices) == set(plan.keep.indices)
    for key, kept in plan.keep.indices.items():
        np.testing.assert_array_equal(loaded.keep.indices[key], kept)


@pytest.mark.parametrize("heads", [[0, 1, 2, 4], [4, 5, 0, 1], [0, 0, 4, 5], [0, 1, 4, 8]])
def test_a_plan_that_breaks_groups_or_repeats_is_refused(tiny_shape: HybridShape, heads: list[int]) -> None:
    layers = tuple(range(8))
    indices = {("mamba_num_heads", layer): np.array(heads) for layer in tiny_shape.layers_of("M")}
    with pytest.raises(ValueError, match=r"same number from each of 2 groups|distinct and below 8"):
        PrunePlan(
            source=tiny_shape,
            target=tiny_shape.resized(mamba_num_heads=4),
            keep=Keep(layers=layers, indices=indices),
        )
