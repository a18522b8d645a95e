import pytest

from minitron.hybrid.shape import HybridShape
from minitron.search import NothingFitsError, SearchResult, Workload, memory_bytes, solve_budget

WORKLOAD = Workload(context_tokens=64)
SPACE = {"num_hidden_layers": [8, 6], "intermediate_size": [36, 24, 12], "mamba_num_heads": [8, 6, 4]}


def first_blocks(kept: int) -> tuple[int, ...]:
    return tuple(range(kept))


def solve(shape: HybridShape, budget_bytes: int, top_k: int = 99) -> SearchResult:
    return solve_budget(shape, SPACE, WORKLOAD, budget_bytes, kept_layers=first_blocks, top_k=top_k)


def test_every_candidate_fits_and_the_largest_comes_first(tiny_shape: HybridShape) -> None:
    budget = memory_bytes(tiny_shape, WORKLOAD).total_bytes * 8 // 10
    result = solve(tiny_shape, budget)
    totals = [candidate.memory.total_bytes for candidate in result.candidates]
    assert totals == sorted(totals, reverse=True)
    assert 0 < result.num_feasible == len(totals) < result.num_shapes == 18
    assert max(totals) <= budget
    for candidate in result.candidates:
        assert candidate.memory == memory_bytes(candidate.shape, WORKLOAD)
        assert candidate.shape.num_hidden_layers == len(candidate.layers)


def test_only_the_top_k_are_kept(tiny_shape: HybridShape) -> None:
    result = solve(tiny_shape, 10**9, top_k=2)
    assert len(result.candidates) == 2
    assert result.candidates[0].shape == tiny_shape


def test_an_impossible_budget_names_the_smallest_shape_and_what_it_lacks(tiny_shape: HybridShape) -> None:
    smallest = tiny_shape.resized(layers=first_blocks(6), intermediate_size=12, mamba_num_heads=4)
    needed = memory_bytes(smallest, WORKLOAD).total_bytes
    with pytest.raises(NothingFitsError, match=f"needs {needed:,}, {needed - 1000:,} more") as caught:
        solve(tiny_shape, 1000)
    assert "\n" not in str(caught.value)


def test_a_size_above_the_teachers_is_refused(tiny_shape: HybridShape) -> None:
    with pytest.raises(
        ValueError, match=r"search.intermediate_size must hold sizes up to the teacher's 36, got \[48\]"
    ):
        solve_budget(tiny_shape, {"intermediate_size": [48]}, WORKLOAD, 10**9, kept_layers=first_blocks, top_k=1)
