"""What is collected of routed experts, against a loop over tokens in fp64 that shares nothing with it."""

# T tokens, E experts, F neurons of an expert

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from minitron.data.samples import Samples
from minitron.distributed import Ranks
from minitron.importance.block_statistics import StatisticsCollector
from minitron.importance.experts import ExpertStatistic
from minitron.models.shape import HybridShape
from minitron.runtime.stack import Block, MemoryStack
from tests.support.exact import tensors_on_disk
from tests.support.models import make_moe_shape, make_tiny_model
from tests.support.numpy_model import reference
from tests.support.strategies import seeds, shapes

Found = dict[tuple[str, int], torch.Tensor]


class TwoRanks(Ranks):
    """This process and another one, whose sums of a block are known."""

    def __init__(self, other: dict[str, torch.Tensor], *, first: bool) -> None:
        super().__init__()
        self._other, self._first = other, first

    def gather(self, state: Any) -> list[dict[str, torch.Tensor]]:
        return [dict(state), self._other] if self._first else [self._other, dict(state)]


def make_samples(shape: HybridShape, seed: int, *, padded: bool) -> Samples:
    rng = np.random.default_rng(seed)
    token_ids = rng.integers(3, shape.vocab_size, (5, 9), dtype=np.int32)
    return Samples(token_ids=token_ids, lengths=rng.integers(1, 10, 5) if padded else None)


def collector(shape: HybridShape) -> StatisticsCollector:
    return StatisticsCollector([ExpertStatistic(shape)])


def collect(
    statistics: StatisticsCollector, model: PreTrainedModel, shape: HybridShape, batches: list[Samples]
) -> None:
    stack = MemoryStack(model, shape)
    blocks = list(stack.blocks(range(shape.num_hidden_layers)))
    for batch in batches:
        mask_BT = batch.mask(stack.device)
        with torch.no_grad(), statistics.collecting(blocks, mask_BT):
            stack.run(blocks, stack.embed(batch.ids(stack.device)), mask_BT)


def blocks_of(model: PreTrainedModel, shape: HybridShape) -> list[Block]:
    return list(MemoryStack(model, shape).blocks(range(shape.num_hidden_layers)))


def scores_of(model: PreTrainedModel, shape: HybridShape, batches: list[Samples]) -> Found:
    statistics = collector(shape)
    collect(statistics, model, shape, batches)
    statistics.finish(blocks_of(model, shape), Ranks())
    return statistics.scores


def expected_scores(model: PreTrainedModel, shape: HybridShape, samples: Samples) -> dict[tuple[str, int], Any]:
    """By the definitions, token by token: mean norm of what an expert adds, mean square of what a neuron adds."""
    weights = {name: array.astype(np.float64) for name, array in tensors_on_disk(model, shape).items()}
    oracle = reference(model.config, weights, shape)
    lengths = [samples.token_ids.shape[1]] * len(samples) if samples.lengths is None else samples.lengths.tolist()
    streams = [oracle.streams(ids_T[:n]) for ids_T, n in zip(samples.token_ids, lengths, strict=True)]
    E, F = shape.n_routed_experts, shape.moe_intermediate_size
    found: dict[tuple[str, int], Any] = {}
    for layer in shape.layers_of("E"):
        own = oracle.block(layer)
        norms: list[list[float]] = [[] for _ in range(E)]
        energy_EF = np.zeros((E, F))
        for stream in streams:
            for x_D, read_C in zip(*oracle.expert_inputs(stream[layer], layer), strict=True):
                for expert, weight in oracle.route(x_D, own, layer).items():
                    act_F = np.maximum(own[f"mixer.experts.{expert}.up_proj.weight"] @ read_C, 0) ** 2
                    down_CF = own[f"mixer.experts.{expert}.down_proj.weight"]
                    norms[expert].append(weight * np.linalg.norm(down_CF @ act_F))
                    for neuron in range(F):
                        energy_EF[expert, neuron] += (weight * act_F[neuron] * np.linalg.norm(down_CF[:, neuron])) ** 2
        found["n_routed_experts", layer] = np.array([np.mean(norm) if norm else 0.0 for norm in norms])
        found["moe_intermediate_size", layer] = energy_EF / sum(lengths)
    return found


def assert_close(found: Found, expected: dict[tuple[str, int], Any], rtol: float = 1e-5) -> None:
    assert set(found) == set(expected)
    for key, score in expected.items():
        np.testing.assert_allclose(found[key], score, rtol=rtol, atol=rtol * float(np.abs(score).mean()), err_msg=key)


@settings(max_examples=20)
@given(data=st.data(), seed=seeds, padded=st.booleans(), batch_size=st.integers(1, 5))
def test_experts_are_scored_as_a_loop_over_tokens_scores_them(
    data: Any, seed: int, padded: bool, batch_size: int
) -> None:
    shape = data.draw(shapes(model_types=["nemotron_h"], every_kind=True))
    model, samples = make_tiny_model(shape, seed=seed), make_samples(shape, seed, padded=padded)
    assert_close(scores_of(model, shape, samples.batches(batch_size)), expected_scores(model, shape, samples))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("latent", [0, 9])
@pytest.mark.parametrize("first", [True, False])
def test_two_processes_give_the_scores_of_one(padded: bool, latent: int, first: bool) -> None:
    shape = make_moe_shape(moe_latent_size=latent)
    model, samples = make_tiny_model(shape), make_samples(shape, 0, padded=padded)
    one, other = collector(shape), collector(shape)
    collect(one, model, shape, samples.share(0, 2).batches(2))
    collect(other, model, shape, samples.share(1, 2).batches(2))
    for block in blocks_of(model, shape):
        prefix = f"collected/{block[0]}/experts/"
        sums = {name.removeprefix(prefix): value for name, value in other.state().items() if name.startswith(prefix)}
        one.finish([block], TwoRanks(sums, first=first))
    assert_close(one.scores, expected_scores(model, shape, samples))


@pytest.mark.parametrize("stop", range(4))
def test_a_saved_state_goes_on_to_the_same_bits(stop: int) -> None:
    shape = make_moe_shape(moe_latent_size=9)
    model, samples = make_tiny_model(shape), make_samples(shape, 0, padded=True)
    batches = samples.batches(2)
    expected = scores_of(model, shape, batches)
    before, after = collector(shape), collector(shape)
    collect(before, model, shape, batches[:stop])
    after.restore(before.state(), before=shape.num_hidden_layers, device=torch.device("cpu"))
    collect(after, model, shape, batches[stop:])
    after.finish(blocks_of(model, shape), Ranks())
    for key, score in expected.items():
        torch.testing.assert_close(after.scores[key], score, rtol=0, atol=0)


def test_scores_of_finished_blocks_are_restored_of_layers_before_the_one_to_go_on_with() -> None:
    shape = make_moe_shape()
    model = make_tiny_model(shape)
    statistics, restored = collector(shape), collector(shape)
    collect(statistics, model, shape, [make_samples(shape, 0, padded=False)])
    statistics.finish(blocks_of(model, shape), Ranks())
    first, second = shape.layers_of("E")
    statistics.forget(first)
    statistics.forget(second)
    restored.restore(statistics.state(), before=second, device=torch.device("cpu"))
    assert {layer for _, layer in restored.scores} == {first}
    for key, score in restored.scores.items():
        torch.testing.assert_close(score, statistics.scores[key], rtol=0, atol=0)


def test_collecting_leaves_no_hook_and_no_change() -> None:
    shape = make_moe_shape()
    model, samples = make_tiny_model(shape), make_samples(shape, 0, padded=False)
    ids_BT = samples.ids(torch.device("cpu"))
    with torch.no_grad():
        before_BTV = model(ids_BT, use_cache=False).logits
        collect(collector(shape), model, shape, [samples])
        torch.testing.assert_close(model(ids_BT, use_cache=False).logits, before_BTV, rtol=0, atol=0)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
