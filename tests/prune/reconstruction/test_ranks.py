"""Several processes repair as one does: samples are shared out, and all of them end with the same weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.prune.in_memory import prune_model
from minitron.runtime.loading import load_model
from tests.prune.reconstruction import ranks_program
from tests.prune.reconstruction.ranks_program import WAYS, activations, factors, repaired, samples_of
from tests.support.models import write_tiny_checkpoint
from tests.support.plans import make_plan
from tests.support.processes import run_ranks
from tests.support.repairs import lstsq_by_rows

pytestmark = pytest.mark.processes

CLOSED = tuple(way for way, (settings, _) in WAYS.items() if not settings.epochs)
TRAINED = tuple(way for way in WAYS if way not in CLOSED)
Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_checkpoint(tmp_path_factory.mktemp("repaired") / "teacher")


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def found(request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each of several processes has found."""
    output = tmp_path_factory.mktemp("ranks")
    codes = run_ranks(ranks_program.main, checkpoint, output, tuple(WAYS), world_size=request.param, log=output)
    assert codes == [0] * request.param, "".join(path.read_text() for path in output.glob("*.err"))
    return [torch.load(output / f"found-{rank}.pt") for rank in range(request.param)]


@pytest.mark.parametrize("way", CLOSED)
def test_the_closed_form_of_several_processes_is_that_of_one(found: Found, checkpoint: Path, way: str) -> None:
    expected = repaired(checkpoint, way)
    assert found[0][way].keys() == expected.keys()
    for name, weight in expected.items():
        scale = float(weight.abs().mean())
        torch.testing.assert_close(found[0][way][name], weight, rtol=1e-5, atol=1e-5 * scale, msg=name)


@pytest.mark.parametrize("way", TRAINED)
def test_blocks_that_are_trained_by_several_processes_are_those_of_one(
    found: Found, checkpoint: Path, way: str
) -> None:
    expected = repaired(checkpoint, way)
    assert found[0][way].keys() == expected.keys()
    for name, weight in expected.items():
        scale = float(weight.abs().mean())
        torch.testing.assert_close(found[0][way][name], weight, rtol=1e-3, atol=1e-3 * scale, msg=name)


@pytest.mark.parametrize("way", [*WAYS, "factors", "moments", "moments of the first process", "gradients"])
def test_all_processes_end_with_the_same_bits(found: Found, way: str) -> None:
    for other in found[1:]:
        assert other[way].keys() == found[0][way].keys()
        assert all(torch.equal(other[way][name], value) for name, value in found[0][way].items())


def test_the_first_projection_is_the_ridge_regression_over_the_tokens_of_all_processes(
    found: Found, checkpoint: Path
) -> None:
    teacher, samples = load_model(checkpoint), samples_of(False)
    plan = make_plan(open_checkpoint(checkpoint).shape)
    student: Any = prune_model(teacher, plan)
    kept, ids = plan.keep.indices["hidden_size", None], samples.ids(torch.device("cpu"))
    heard: list[torch.Tensor] = []
    projection = student.model.layers[0].mixer.out_proj
    projection.register_forward_pre_hook(lambda _, x: heard.append(x[0].detach()))
    with torch.no_grad():
        before = student.base_model(ids, output_hidden_states=True).hidden_states[0]
        after = teacher.base_model(ids, output_hidden_states=True).hidden_states[1][..., kept]
    inputs, weight = heard[0].double().flatten(0, 1).numpy(), projection.weight.detach().double().numpy()
    lacking = (after.double() - before.double()).flatten(0, 1).numpy()
    expected = lstsq_by_rows(weight, inputs, lacking, WAYS["outputs"][0].ridge)
    fitted = found[0]["outputs"]["backbone.layers.0.mixer.out_proj.weight"]
    np.testing.assert_allclose(fitted.numpy(), expected, rtol=1e-3, atol=1e-5)


def test_factors_of_norms_are_those_of_one_process_bit_for_bit(found: Found, checkpoint: Path) -> None:
    expected = factors(checkpoint)
    assert found[0]["factors"].keys() == expected.keys()
    for name, factor in expected.items():
        assert float(found[0]["factors"][name]) == float(factor)


@pytest.mark.parametrize("way", ["moments", "moments of the first process"])
def test_moments_are_sums_over_the_counted_tokens_of_all_processes_in_float64(found: Found, way: str) -> None:
    batches = activations()
    target_ND, input_NC = (torch.cat([batch[which][batch[2]] for batch in batches]).double() for which in range(2))
    torch.testing.assert_close(found[-1][way]["cross"], target_ND.T @ input_NC, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[-1][way]["gram"], input_NC.T @ input_NC, rtol=1e-5, atol=1e-5)


def test_gradients_are_summed_and_what_has_none_anywhere_keeps_none(found: Found) -> None:
    count = len(found)
    expected = {"0": count * torch.arange(2.0) + sum(range(count)), "1": torch.full((3,), 7.0)}
    assert found[0]["gradients"].keys() == expected.keys()
    assert all(torch.equal(found[0]["gradients"][name], value) for name, value in expected.items())


def test_a_process_of_a_launch_repairs_by_itself_where_no_others_are_given(found: Found, checkpoint: Path) -> None:
    expected = repaired(checkpoint, "all")
    assert all(torch.equal(found[0]["alone"][name], weight) for name, weight in expected.items())
