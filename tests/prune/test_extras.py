"""Layers that predict further tokens: cut as declared, refused where nothing is known of them, or left out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.checkpoints.headers import SINGLE_FILE
from minitron.importance.scores import random_scores
from minitron.importance.selection import select_units
from minitron.prune.checkpoint import OutputFormat, prune_checkpoint
from minitron.prune.plan import PrunePlan
from minitron.runtime.loading import load_model
from minitron.runtime.saving import save_model
from tests.support.models import make_moe_shape, write_tiny_checkpoint

SHAPES = {
    "mtp.layers.0.enorm.weight": (22,),
    "mtp.layers.0.hnorm.weight": (22,),
    "mtp.layers.0.norm.weight": (22,),
    "mtp.layers.0.eh_proj.weight": (22, 44),
    "mtp.layers.0.mixer.q_proj.weight": (60, 22),
    "mtp.layers.0.mixer.o_proj.weight": (22, 60),
    "mtp.layers.1.mixer.gate.weight": (15, 22),
    "mtp.layers.1.mixer.experts.14.up_proj.weight": (11, 22),
    "mtp.layers.1.final_layernorm.weight": (22,),
}


def write_with_extras(folder: Path, shapes: dict[str, tuple[int, ...]]) -> Checkpoint:
    """A tiny hybrid of experts with one layer (of two blocks) that predicts a further token."""
    write_tiny_checkpoint(folder, shape=make_moe_shape())
    tensors = load_file(folder / SINGLE_FILE)
    generator = torch.Generator().manual_seed(5)
    tensors |= {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    save_file(tensors, folder / SINGLE_FILE, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 1}))
    return open_checkpoint(folder)


def plan_of(source: Checkpoint, **sizes: int) -> PrunePlan:
    shape = source.shape
    layers = tuple(range(shape.num_hidden_layers))
    target = shape.resized(**sizes)
    return PrunePlan(
        source=shape, target=target, keep=select_units(random_scores(shape, seed=0), shape, target, layers)
    )


def test_hidden_channels_are_cut_in_every_dim_that_runs_over_them(tmp_path: Path) -> None:
    source = write_with_extras(tmp_path / "teacher", SHAPES)
    plan = plan_of(source, hidden_size=13, intermediate_size=9)
    written = prune_checkpoint(source, plan, tmp_path / "pruned")
    kept = plan.keep.indices["hidden_size", None]
    before, after = load_file(source.folder / SINGLE_FILE), load_file(written.folder / SINGLE_FILE)
    twice = np.concatenate([kept, kept + 22])
    by_hand = {
        "mtp.layers.0.enorm.weight": before["mtp.layers.0.enorm.weight"][kept],
        "mtp.layers.0.eh_proj.weight": before["mtp.layers.0.eh_proj.weight"][kept][:, twice],
        "mtp.layers.0.mixer.q_proj.weight": before["mtp.layers.0.mixer.q_proj.weight"][:, kept],
        "mtp.layers.0.mixer.o_proj.weight": before["mtp.layers.0.mixer.o_proj.weight"][kept],
        "mtp.layers.1.mixer.experts.14.up_proj.weight": before["mtp.layers.1.mixer.experts.14.up_proj.weight"][:, kept],
    }
    assert set(written.extras) == set(SHAPES)
    for name, expected in by_hand.items():
        assert torch.equal(after[name], expected)
    assert written.config["num_nextn_predict_layers"] == 1
    assert written.params == plan.target.params


def test_a_cut_that_nothing_is_known_of_is_refused_and_leaving_out_is_offered(tmp_path: Path) -> None:
    source = write_with_extras(tmp_path / "teacher", SHAPES)
    plan = plan_of(source, n_routed_experts=9)
    with pytest.raises(ValueError, match=r"n_routed_experts cannot be cut in mtp.layers.1.mixer.*--drop-mtp"):
        prune_checkpoint(source, plan, tmp_path / "pruned")
    assert not (tmp_path / "pruned").exists()
    written = prune_checkpoint(source, plan, tmp_path / "pruned", OutputFormat(drop_extras=True))
    assert not written.extras
    assert written.config["num_nextn_predict_layers"] == 0


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        ({"mtp.layers.0.mixer.mystery.weight": (3,)}, "must be one that is declared, got mtp.layers.0.mixer.mystery"),
        ({"mtp.head.weight": (3,)}, "tensors must be those of the configuration"),
        ({"mtp.layers.0.enorm.weight": (21,)}, "must have the shape"),
    ],
)
def test_an_extra_tensor_that_is_not_declared_is_refused(
    tmp_path: Path, extra: dict[str, tuple[int, ...]], fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        source = write_with_extras(tmp_path / "teacher", SHAPES | extra)
        prune_checkpoint(source, plan_of(source, hidden_size=13), tmp_path / "pruned")


def test_a_trained_student_keeps_them_as_they_were_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_with_extras(tmp_path / "teacher", SHAPES)
    saved = save_model(load_model(source.folder).state_dict(), source, tmp_path / "student")
    assert set(saved.extras) == set(SHAPES)
    assert "kept as they were, untrained" in caplog.text
