"""Models on parts of sequences in two and three processes give what one gives on whole ones, gradients included."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from minitron.distributed import ContextGroup
from minitron.errors import MinitronError
from minitron.runtime.context_parallel.part import part_lengths, part_of
from minitron.runtime.context_parallel.split_model import on_part
from tests.runtime.context_parallel import ranks_program
from tests.runtime.context_parallel.ranks_program import SAMPLES, SHAPE, TOKENS, direction, make_mixer, results
from tests.support.models import make_dense_shape, make_tiny_model
from tests.support.processes import run_ranks
from tests.support.reference.recurrences import mamba2

MODELS = ("hybrid", "hybrid-recomputed", "hybrid-eager", "experts", "llama", "qwen3-recomputed")
PLANTED = (
    "hybrid-stateless",
    "hybrid-haloless",
    "hybrid-unmasked",
    "llama-unmoved",
    "mixer-stateless",
    "mixer-haloless",
)
GROUP = ContextGroup(rank=1, size=3, first=0, data_rank=0, data_size=1, processes=None)


@pytest.fixture(scope="module", params=[2, 3])
def computed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp(f"parts-{request.param}")
    ways = ("mixer", *MODELS, *(PLANTED if request.param == 2 else ()))
    codes = run_ranks(ranks_program.main, output, ways, world_size=request.param, log=output)
    assert codes == [0] * request.param, (output / "rank-0.err").read_text()
    return output


def assert_as_whole(computed: Path, way: str) -> None:
    """Holds what processes gave on parts against what one gives on whole sequences, by the norm of each difference."""
    found, kind = torch.load(computed / f"{way}.pt"), way.partition("-")[0]
    expected = results(kind)
    assert found.keys() == expected.keys()
    limit = 1e-12 if kind == "mixer" else 1e-5
    assert {name: error for name, error in errors(found, expected).items() if not error < limit} == {}


def errors(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> dict[str, float]:
    return {
        name: float((found[name] - whole).double().norm() / whole.double().norm().clamp(min=1e-30))
        for name, whole in expected.items()
    }


@pytest.mark.processes
@pytest.mark.parametrize("way", ["mixer", *MODELS])
def test_outputs_and_gradients_are_those_of_whole_sequences(computed: Path, way: str) -> None:
    assert_as_whole(computed, way)


@pytest.mark.processes
@pytest.mark.parametrize("computed", [2], indirect=True)
@pytest.mark.parametrize("way", PLANTED)
def test_a_planted_error_is_seen(computed: Path, way: str) -> None:
    with pytest.raises(AssertionError):
        assert_as_whole(computed, way)


def test_the_mixer_that_parts_are_held_against_is_the_recurrence_token_by_token() -> None:
    found = results("mixer")["outputs"].numpy()
    own = {name: weight.detach().numpy() for name, weight in make_mixer().named_parameters()}
    for sample in range(SAMPLES):
        x_TD = direction(SAMPLES, TOKENS, SHAPE.hidden_size)[sample].numpy()
        sizes = {"heads": SHAPE.mamba_num_heads, "groups": SHAPE.n_groups, "state": SHAPE.ssm_state_size}
        expected = mamba2(x_TD, own, "", **sizes, eps=make_mixer().norm.variance_epsilon)
        assert abs(found[sample] - expected).max() < 1e-10


def test_parts_are_even_and_the_first_ones_take_what_is_left() -> None:
    assert part_lengths(23, 3) == (8, 8, 7)
    part = part_of(GROUP, 23)
    assert (part.start, part.stop, part.tokens) == (8, 16, 8)


def test_sequences_that_are_too_short_for_as_many_parts_are_refused() -> None:
    part_of(GROUP, 9, at_least=[3])
    with pytest.raises(MinitronError, match=r"at least 3 tokens of a sequence, seq_len 8 leaves 2; .* of 9 or more"):
        part_of(GROUP, 8, at_least=[3])


def test_families_that_do_not_split_text_are_refused_with_those_that_do() -> None:
    model = make_tiny_model(make_dense_shape("qwen2"))
    with (
        pytest.raises(MinitronError, match="splits text for llama, nemotron_h, qwen3, not for qwen2; set it to 1"),
        on_part(model, part_of(GROUP, 23)),
    ):
        pass


def test_a_model_is_as_it_was_after_the_with() -> None:
    model = make_tiny_model(SHAPE)
    before = {name: vars(module).get("forward") for name, module in model.named_modules()}
    with on_part(model, part_of(GROUP, 23)):
        assert "forward" in vars(model.model.layers[0].mixer)
    assert {name: vars(module).get("forward") for name, module in model.named_modules()} == before
