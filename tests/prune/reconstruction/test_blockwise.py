"""Repair against an independent float64 least squares, and the laws that it keeps."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.checkpoints.weights import open_weights
from minitron.data.samples import Samples
from minitron.models.keep import Keep
from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.in_memory import prune_model
from minitron.prune.plan import PrunePlan
from minitron.prune.reconstruction import block_fit, ridge
from minitron.prune.reconstruction.alignment import Alignment
from minitron.prune.reconstruction.blockwise import apply_repaired, repair
from minitron.prune.reconstruction.ridge import refit
from minitron.prune.reconstruction.settings import RepairSettings
from minitron.prune.reconstruction.write import write_repaired
from minitron.runtime.dtypes import torch_dtype
from minitron.runtime.loading import load_model
from minitron.runtime.stack import LayerwiseStack, MemoryStack, Stack
from tests.support.models import write_tiny_checkpoint
from tests.support.plans import LAYERS, make_plan
from tests.support.repairs import lstsq_by_rows, make_samples, mean_kl

Array = npt.NDArray[np.float64]
OUTPUTS = RepairSettings(projections="outputs", batch_size=2)
ALL = RepairSettings(batch_size=2)
WAYS: list[tuple[RepairSettings, Any]] = [(OUTPUTS, "after_removed"), (ALL, "after_removed"), (ALL, "after_block")]


def aligned(teacher: Stack, student: Stack, plan: PrunePlan, target: Any = "after_removed") -> Alignment:
    return Alignment(teacher=teacher, student=student, plan=plan, target=target)


def repaired_in_memory(
    checkpoint: Path, plan: PrunePlan, samples: Samples, way: tuple[RepairSettings, Any] = WAYS[1], **options: Any
) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    teacher = load_model(checkpoint)
    student = prune_model(teacher, plan)
    stacks = MemoryStack(teacher, plan.source), MemoryStack(student, plan.target)
    weights = dict(repair(aligned(*stacks, plan, way[1]), samples, way[0], **options))
    apply_repaired(student, plan.target.family, weights.items())
    return student, weights


@settings(max_examples=40)
@given(st.permutations([2, 3, 5, 7, 11]), st.integers(0, 1000), st.sampled_from([1e-4, 1e-2, 1.0]))
def test_refit_equals_least_squares_on_explicit_rows_at_any_rank(dims: list[int], seed: int, ridge: float) -> None:
    rows, outputs, columns = dims[:3]
    rng = np.random.default_rng(seed)
    inputs, target = rng.normal(size=(rows, columns)), rng.normal(size=(rows, outputs))
    weight = rng.normal(size=(outputs, columns))
    residual = target - inputs @ weight.T
    found = refit(*(torch.from_numpy(x) for x in (weight, residual.T @ inputs, inputs.T @ inputs)), ridge)
    np.testing.assert_allclose(found.numpy(), lstsq_by_rows(weight, inputs, target, ridge), rtol=1e-4, atol=1e-5)
    # The gradient of the penalized squares vanishes where they are least, and the squares themselves have not grown.
    change = found.double().numpy() - weight
    strength = ridge * (inputs**2).sum(0).mean()
    gradient = (residual - inputs @ change.T).T @ inputs - strength * change
    np.testing.assert_allclose(gradient, 0, atol=1e-4)
    assert ((residual - inputs @ change.T) ** 2).sum() <= (residual**2).sum() * (1 + 1e-6)


def test_a_gram_matrix_that_rounding_made_indefinite_is_solved_by_its_eigenvalues() -> None:
    gram = torch.diag(torch.tensor([4.0, 2.0, -1e-3], dtype=torch.float64))
    found = refit(torch.zeros(2, 3), torch.ones(2, 3), gram, 1e-6)
    expected = torch.tensor([0.25, 0.5, 1 / (1e-6 * float(gram.diagonal().mean()))])
    torch.testing.assert_close(found, expected.expand(2, 3), rtol=1e-4, atol=0)


@pytest.mark.parametrize("panel", [1, 3, 4, 7, 64])
@pytest.mark.parametrize("overwrite", [False, True])
def test_panels_of_any_width_solve_the_same_system(
    monkeypatch: pytest.MonkeyPatch, panel: int, overwrite: bool
) -> None:
    rng = np.random.default_rng(panel)
    inputs, residual, weight = rng.normal(size=(40, 13)), rng.normal(size=(40, 5)), rng.normal(size=(5, 13))
    cross, gram = torch.from_numpy(residual.T @ inputs), torch.from_numpy(inputs.T @ inputs)
    before = cross.clone(), gram.clone()
    monkeypatch.setattr(ridge, "PANEL", panel)
    found = refit(torch.from_numpy(weight), cross, gram, 0.02, overwrite=overwrite)
    system = inputs.T @ inputs + 0.02 * np.diag(inputs.T @ inputs).mean() * np.eye(13)
    expected = weight + np.linalg.solve(system, inputs.T @ residual).T
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert overwrite or (torch.equal(cross, before[0]) and torch.equal(gram, before[1]))


@pytest.mark.parametrize("panel", [1, 2, 64])
def test_a_matrix_that_fails_within_a_later_panel_is_still_solved(monkeypatch: pytest.MonkeyPatch, panel: int) -> None:
    monkeypatch.setattr(ridge, "PANEL", panel)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    values = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, -1e-3], dtype=torch.float64)
    gram, cross = (turn * values) @ turn.T, torch.ones(2, 6, dtype=torch.float64)
    strength = 1e-6 * float(gram.diagonal().mean())
    expected = (cross @ turn / (values + strength).clamp(min=strength)) @ turn.T
    torch.testing.assert_close(refit(torch.zeros(2, 6), cross, gram, 1e-6), expected.float(), rtol=1e-4, atol=0)


def test_an_endless_ridge_gives_back_the_sliced_weight() -> None:
    weight = torch.randn(3, 5)
    torch.testing.assert_close(refit(weight, torch.randn(3, 5), torch.eye(5), 1e12), weight, rtol=0, atol=1e-9)


def test_silent_inputs_leave_the_weight_and_bad_values_are_refused() -> None:
    weight = torch.randn(3, 5)
    torch.testing.assert_close(refit(weight, torch.zeros(3, 5), torch.zeros(5, 5), 0.1), weight, rtol=0, atol=0)
    with pytest.raises(ValueError, match="ridge must be above 0, got 0"):
        refit(weight, torch.zeros(3, 5), torch.eye(5), 0)
    with pytest.raises(ValueError, match="second moments must be finite"):
        refit(weight, torch.full((3, 5), torch.nan), torch.eye(5), 0.1)


def stream_after(model: Any, ids: torch.Tensor, layers: int) -> torch.Tensor:
    with torch.no_grad():
        return model.base_model(ids, output_hidden_states=True, use_cache=False).hidden_states[layers]


def test_the_first_projection_is_the_ridge_regression_of_the_teachers_stream(tiny_checkpoint: Path) -> None:
    source, teacher, samples = open_checkpoint(tiny_checkpoint), load_model(tiny_checkpoint), make_samples()
    plan = make_plan(source.shape)
    student: Any = prune_model(teacher, plan)
    ids, kept = samples.ids(torch.device("cpu")), plan.keep.indices["hidden_size", None]
    heard: list[torch.Tensor] = []
    projection = student.model.layers[0].mixer.out_proj
    hook = projection.register_forward_pre_hook(lambda _, x: heard.append(x[0].detach()))
    before = stream_after(student, ids, 0).double().flatten(0, 1).numpy()
    after = stream_after(teacher, ids, 1).double().flatten(0, 1).numpy()[:, kept]
    hook.remove()
    inputs, weight = heard[0].double().flatten(0, 1).numpy(), projection.weight.detach().double().numpy()
    _, found = repaired_in_memory(tiny_checkpoint, plan, samples, WAYS[0])
    expected = lstsq_by_rows(weight, inputs, after - before, OUTPUTS.ridge)
    np.testing.assert_allclose(found["backbone.layers.0.mixer.out_proj.weight"].numpy(), expected, rtol=1e-3, atol=1e-5)


def test_a_repaired_block_misses_the_teachers_stream_by_no_more_than_the_sliced_one(tiny_checkpoint: Path) -> None:
    source, teacher, samples = open_checkpoint(tiny_checkpoint), load_model(tiny_checkpoint), make_samples()
    plan, ids = make_plan(source.shape), samples.ids(torch.device("cpu"))
    kept = torch.from_numpy(plan.keep.indices["hidden_size", None])
    ends = (*LAYERS[1:], 8)
    _, weights = repaired_in_memory(tiny_checkpoint, plan, samples, WAYS[0])
    own: Any = prune_model(teacher, plan)
    taught: Any = teacher
    stack = MemoryStack(own, plan.target)
    finals: list[torch.Tensor] = []
    hook = taught.model.norm_f.register_forward_pre_hook(lambda _, x: finals.append(x[0]))
    stream_after(teacher, ids, 8)
    hook.remove()
    with torch.no_grad():
        stream = stack.embed(ids)
        for position, block in enumerate(stack.blocks(range(len(LAYERS)))):
            end = ends[position]
            wanted = (finals[0] if end == 8 else stream_after(teacher, ids, end))[..., kept]
            sliced = (stack.run([block], stream, None) - wanted).square().mean()
            prefix = f"backbone.layers.{position}."
            for name, weight in weights.items():
                if name.startswith(prefix):
                    block[1].get_parameter(name.removeprefix(prefix)).copy_(weight)
            stream = stack.run([block], stream, None)
            assert (stream - wanted).square().mean() < sliced


@pytest.mark.parametrize("way", WAYS)
def test_a_plan_that_removes_nothing_changes_nothing(tiny_checkpoint: Path, way: tuple[RepairSettings, Any]) -> None:
    source = open_checkpoint(tiny_checkpoint)
    plan = PrunePlan(source=source.shape, target=source.shape, keep=Keep(layers=tuple(range(8)), indices={}))
    _, weights = repaired_in_memory(tiny_checkpoint, plan, make_samples(), way)
    assert len(weights) == (8 if way[0].projections == "outputs" else 8 + 3 + 3 + 2 * 3 + 1)
    with open_weights(source) as read:
        for name, weight in weights.items():
            torch.testing.assert_close(weight, read(name), rtol=0, atol=1e-5)


@pytest.mark.parametrize("way", WAYS)
def test_repair_brings_the_student_nearer_to_the_teacher_on_the_calibration_text(
    tiny_checkpoint: Path, way: tuple[RepairSettings, Any]
) -> None:
    source, teacher, samples = open_checkpoint(tiny_checkpoint), load_model(tiny_checkpoint), make_samples(count=40)
    plan = make_plan(source.shape)
    student, _ = repaired_in_memory(tiny_checkpoint, plan, samples, way)
    assert mean_kl(teacher, student, samples) < mean_kl(teacher, prune_model(teacher, plan), samples)


def test_padding_is_not_counted(tiny_checkpoint: Path) -> None:
    plan, padded = make_plan(open_checkpoint(tiny_checkpoint).shape), make_samples(padded=True)
    other_ids = padded.token_ids.copy()
    for row, length in enumerate(padded.lengths if padded.lengths is not None else ()):
        other_ids[row, length:] = 7
    other = Samples(token_ids=other_ids, lengths=padded.lengths)
    _, found = repaired_in_memory(tiny_checkpoint, plan, padded)
    _, expected = repaired_in_memory(tiny_checkpoint, plan, other)
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)
    wider = np.pad(padded.token_ids, ((0, 0), (0, 6)), constant_values=9)
    _, expected = repaired_in_memory(tiny_checkpoint, plan, Samples(token_ids=wider, lengths=padded.lengths))
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-3, atol=1e-4)


def pruned_on_disk(checkpoint: Path, plan: PrunePlan, output: Path) -> tuple[Checkpoint, dict[str, torch.dtype]]:
    written = prune_checkpoint(open_checkpoint(checkpoint), plan, output)
    return written, {name: torch_dtype(stored.dtype) for name, stored in written.tensors.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layerwise_on_disk_equals_in_memory_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "teacher", dtype=dtype)
    source = open_checkpoint(checkpoint)
    plan, samples = make_plan(source.shape), make_samples(padded=True)
    written, dtypes = pruned_on_disk(checkpoint, plan, tmp_path / "pruned")
    stacks = LayerwiseStack(source), LayerwiseStack(written)
    count = write_repaired(
        written, repair(aligned(*stacks, plan), samples, ALL, dtypes=dtypes, state_folder=tmp_path / "state")
    )
    in_memory, weights = repaired_in_memory(checkpoint, plan, samples, WAYS[1], dtypes=dtypes)
    assert count == len(weights)
    assert {stored.dtype for stored in open_checkpoint(written.folder).tensors.values()} == {
        {torch.float32: "F32", torch.bfloat16: "BF16"}[dtype]
    }
    on_disk = load_model(written.folder).state_dict()
    for name, value in in_memory.state_dict().items():
        torch.testing.assert_close(on_disk[name], value, rtol=0, atol=0)


class _KilledError(Exception):
    pass


def repaired_on_disk(source: Path, written: Checkpoint, state: Path, *, layerwise: bool) -> None:
    opened = open_checkpoint(source)
    plan = make_plan(opened.shape)
    if layerwise:
        pair = aligned(LayerwiseStack(opened), LayerwiseStack(written), plan)
    else:
        teacher, student = load_model(source), load_model(written.folder)
        pair = aligned(MemoryStack(teacher, plan.source), MemoryStack(student, plan.target), plan)
    write_repaired(written, repair(pair, make_samples(), ALL, state_folder=state))


@pytest.fixture(scope="module")
def never_interrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Checkpoint]:
    """A repaired checkpoint, layerwise or not."""
    folder, found = tmp_path_factory.mktemp("never-interrupted"), {}
    source = write_tiny_checkpoint(folder / "teacher")
    for layerwise in (False, True):
        found[layerwise], _ = pruned_on_disk(source, make_plan(open_checkpoint(source).shape), folder / str(layerwise))
        repaired_on_disk(source, found[layerwise], folder / f"state-{layerwise}", layerwise=layerwise)
    return found


@pytest.mark.parametrize(
    "stop", [1, 5, 12, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (2, 3, 4, 6, 7, 9, 16))]
)
@pytest.mark.parametrize("layerwise", [False, True])
def test_an_interrupted_repair_ends_with_the_same_bits(
    tmp_path: Path,
    tiny_checkpoint: Path,
    never_interrupted: dict[bool, Checkpoint],
    monkeypatch: pytest.MonkeyPatch,
    stop: int,
    layerwise: bool,
) -> None:
    whole, calls = never_interrupted[layerwise], 0

    def killed(*args: Any, **options: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise _KilledError
        return refit(*args, **options)

    first, _ = pruned_on_disk(tiny_checkpoint, make_plan(open_checkpoint(tiny_checkpoint).shape), tmp_path / "first")
    with monkeypatch.context() as patch, pytest.raises(_KilledError):
        patch.setattr(block_fit, "refit", killed)
        repaired_on_disk(tiny_checkpoint, first, tmp_path / "state", layerwise=layerwise)
    repaired_on_disk(tiny_checkpoint, first, tmp_path / "state", layerwise=layerwise)
    with open_weights(whole) as expected, open_weights(first) as found:
        for name in whole.tensors:
            torch.testing.assert_close(found(name), expected(name), rtol=0, atol=0)


def test_a_state_of_another_repair_is_left_aside(
    tmp_path: Path, tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan, state = make_plan(open_checkpoint(tiny_checkpoint).shape), tmp_path / "state"
    repaired_in_memory(tiny_checkpoint, plan, make_samples(count=4), state_folder=state)
    _, found = repaired_in_memory(tiny_checkpoint, plan, make_samples(), state_folder=state)
    _, expected = repaired_in_memory(tiny_checkpoint, plan, make_samples())
    assert "is left from an interrupted attempt with other inputs" in caplog.text
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=0)


def test_weights_that_do_not_belong_are_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    plan = make_plan(open_checkpoint(tiny_checkpoint).shape)
    written, _ = pruned_on_disk(tiny_checkpoint, plan, tmp_path / "pruned")
    name = "backbone.layers.0.mixer.out_proj.weight"
    with pytest.raises(ValueError, match="nothing is not"):
        write_repaired(written, [("nothing", torch.zeros(1))])
    with pytest.raises(ValueError, match="must keep its shape"):
        write_repaired(written, [(name, torch.zeros(1))])
    with pytest.raises(ValueError, match="must be finite"):
        write_repaired(written, [(name, torch.full(written.tensors[name].shape, torch.inf))])
