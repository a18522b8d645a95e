"""Devices that are not there are refused in one line; `auto` is what is there."""

from pathlib import Path

import pytest
import torch

from minitron.errors import MinitronError
from minitron.pipeline.runner import run_pipeline
from minitron.recipe.load import load_recipe
from minitron.runtime.devices import check_device, resolve_device


@pytest.mark.parametrize(
    ("device", "fault"),
    [
        ("gpu", "one that torch knows"),
        ("cpu:x", "one that torch knows"),
        pytest.param(
            "mps", "can use here", marks=pytest.mark.skipif(torch.backends.mps.is_available(), reason="has it")
        ),
        pytest.param("cuda", "can use here", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has it")),
        ("cuda:99", "can use here"),
    ],
)
def test_a_device_that_is_not_there_is_refused(device: str, fault: str) -> None:
    check_device("cpu")
    for ask in (check_device, resolve_device):
        with pytest.raises(MinitronError, match=fault):
            ask(device)


@pytest.mark.parametrize(("available", "found"), [(True, "cuda"), (False, "cpu")])
def test_auto_is_cuda_where_torch_sees_one(available: bool, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert resolve_device("auto") == found
    assert resolve_device("cpu") == "cpu"


def test_a_run_on_auto_is_the_run_on_the_device_that_it_stands_for(
    recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    list(run_pipeline(load_recipe(recipe_path), tmp_path / "run"))
    again = list(run_pipeline(load_recipe(recipe_path, ("device=auto",)), tmp_path / "run"))
    assert again
    assert all(outcome.skipped for outcome in again)


def test_offloading_asks_for_cuda_once_it_is_known_what_auto_is(recipe_path: Path) -> None:
    wanted = ("device=auto", "distill.offload_activations=true", "distill.gradient_checkpointing=true")
    recipe = load_recipe(recipe_path, wanted)
    assert recipe.on_device("cuda:0").device == "cuda:0"
    with pytest.raises(MinitronError, match="offload_activations needs a CUDA device, got device cpu"):
        recipe.on_device("cpu")


def test_fp8_asks_for_cuda_before_anything_is_loaded(recipe_path: Path) -> None:
    assert load_recipe(recipe_path, ("device=auto", "distill.precision=fp8")).on_device("cuda").device == "cuda"
    refusal = "precision fp8 needs a CUDA device of capability 8.9 or above, got device cpu; use bf16"
    with pytest.raises(MinitronError, match=refusal):
        load_recipe(recipe_path, ("device=auto", "distill.precision=fp8")).on_device("cpu")
    with pytest.raises(MinitronError, match=refusal):
        load_recipe(recipe_path, ("distill.precision=fp8",))


@pytest.mark.parametrize("capability", [(8, 6), (9, 0)])
def test_a_run_in_fp8_is_refused_before_its_first_stage_where_the_device_or_torchao_lacks_it(
    recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    recipe = load_recipe(recipe_path, ("device=cuda", "distill.precision=fp8"))
    lacking = "got one of 8.6" if capability == (8, 6) else "torchao, it is not installed"
    with pytest.raises(MinitronError, match=lacking):
        list(run_pipeline(recipe, tmp_path / "run"))
    assert not (tmp_path / "run").exists()
