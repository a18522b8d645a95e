"""The bundled teacher and its data: what they promise, on problems that training cannot have held."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.estimate.serving.memory import memory_bytes
from minitron.evaluate.task import Problem, evaluate_task
from minitron.recipe.load import load_recipe
from minitron.recipe.space import search_space
from minitron.runtime.loading import load_model, load_tokenizer
from minitron.search.solver import solve_budget
from tests.support.paths import QUICKSTART, TEACHER


@pytest.fixture(scope="module")
def make_data() -> Any:
    spec = importlib.util.spec_from_file_location("make_data", QUICKSTART / "make_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_teacher_is_a_small_whole_hybrid() -> None:
    checkpoint = open_checkpoint(TEACHER)
    assert checkpoint.weights_bytes <= 8e6
    assert set(checkpoint.shape.hybrid_override_pattern) == set("M-*")
    assert checkpoint.shape.num_hidden_layers >= 8
    assert checkpoint.shape.n_groups >= 2
    assert {tensor.dtype for tensor in checkpoint.tensors.values()} == {"BF16"}


def test_the_teacher_answers_unseen_problems(make_data: Any) -> None:
    problems = [
        Problem(prompt=prompt, answer=str(answer))
        for prompt, _, answer in make_data.make_problems(seed=12345, count=100, held_out=True)
    ]
    found = evaluate_task(load_model(TEACHER), load_tokenizer(TEACHER), problems, max_new_tokens=96)
    assert found.exact_match >= 0.95


def test_every_step_of_a_trace_is_true(make_data: Any) -> None:
    for prompt, trace, answer in make_data.make_problems(seed=1, count=200, held_out=False):
        values: dict[str, int] = {}
        for name, expression in re.findall(r"([a-f])=([^;?]+)", prompt):
            values[name] = eval(expression, {}, values) % 10
        assert values[prompt[-3]] == answer
        for name, left, result in re.findall(r"([a-f])=[a-f][-+*]\d=(\d[-+*]\d)=(\d)", trace):
            assert eval(left) % 10 == int(result) == values[name]


def test_no_test_problem_and_no_held_out_module_is_trained_on(make_data: Any, tmp_path: Path) -> None:
    make_data.write_data(tmp_path, seed=0, train_problems=3000, test_problems=300)

    def read(name: str) -> list[dict[str, str]]:
        return [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]

    trained = {record["text"].splitlines()[0] for record in read("problems-train.jsonl")}
    assert not trained & {record["prompt"].strip() for record in read("problems-test.jsonl")}
    train, held_out = read("text-train.jsonl"), read("text-heldout.jsonl")
    assert not {record["name"] for record in train} & {record["name"] for record in held_out}
    assert len(held_out) > 10
    assert len(train) > 100


def test_the_recipes_budget_is_missed_by_the_teacher_and_met_by_a_real_cut() -> None:
    recipe = load_recipe(QUICKSTART / "recipe.yaml")
    source = open_checkpoint(TEACHER).shape
    workload, budget = recipe.budget.workload, recipe.budget.budget_bytes
    space = search_space(recipe.search, source, lambda kept: tuple(range(kept)))
    result = solve_budget(space, workload, recipe.budget.limits, top_k=1)
    chosen, teacher_bytes = result.candidates[0], memory_bytes(source, workload).total_bytes
    assert chosen.memory.total_bytes <= budget < teacher_bytes
    assert chosen.memory.total_bytes <= 0.75 * teacher_bytes
    narrower = [axis for axis in source.family.axes if chosen.shape.sizes[axis] < source.sizes[axis]]
    assert len(narrower) >= 2 or chosen.shape.num_hidden_layers < source.num_hidden_layers
