"""Merging checkpoints: laws to the bit, one rounding, bounded memory, and every refusal."""

import json
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from minitron.checkpoints.checkpoint import Checkpoint, open_checkpoint
from minitron.checkpoints.headers import SINGLE_FILE, StoredTensor, read_header
from minitron.checkpoints.merging.merge import CHUNK_NUMBERS, merge_checkpoints, merged_chunks
from minitron.checkpoints.merging.mergeable import interpolation_weights
from minitron.models.shape import HybridShape
from minitron.runtime.loading import load_model
from tests.support.merging import assert_same_bits, read, write_variant
from tests.support.models import make_dense_shape, make_moe_shape, make_tiny_shape, write_tiny_checkpoint

WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
Tensors = dict[str, torch.Tensor]


def rounded_once(numbers: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """Fp64 to nearest, ties to even, by the two neighbors of what torch gives; no rounding through fp32."""
    if dtype != torch.bfloat16:
        return torch.from_numpy(numbers.astype(np.float32))
    near = torch.from_numpy(numbers).to(torch.bfloat16).view(torch.int16)
    around = torch.stack([near - 1, near, near + 1])
    distances = (around.view(torch.bfloat16).double() - torch.from_numpy(numbers)).abs()
    distances = torch.where(distances.isnan(), torch.inf, distances)
    is_nearest = distances == distances.min(0).values
    even_first = torch.where(is_nearest, around & 1, 2).argmin(0, keepdim=True)
    return around.gather(0, even_first)[0].view(torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "weights", [(0.5, 0.5), (0.3, 0.7), (1.7, -0.7), (0.1, 0.2, 0.7), (0.3333333, 0.3333333, 0.3333333)]
)
def test_a_checkpoint_merged_with_itself_is_itself_to_the_bit(
    tmp_path: Path, dtype: torch.dtype, weights: tuple[float, ...]
) -> None:
    source = open_checkpoint(write_tiny_checkpoint(tmp_path / "a", dtype=dtype))
    merged = merge_checkpoints([source] * len(weights), weights, tmp_path / "merged")
    assert_same_bits(read(merged.folder), read(source.folder))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_weight_of_one_gives_that_checkpoint_to_the_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    first = write_tiny_checkpoint(tmp_path / "a", dtype=dtype)
    tensors = read(first)
    tensors[sorted(tensors)[3]].view(-1)[0] = -0.0
    save_file(tensors, first / SINGLE_FILE, metadata={"format": "pt"})
    second = write_variant(first, tmp_path / "b", seed=1)
    others = read(second)
    others[sorted(others)[3]].view(-1)[1] = torch.inf
    save_file(others, second / SINGLE_FILE, metadata={"format": "pt"})
    sources = [open_checkpoint(first), open_checkpoint(second)]
    assert_same_bits(read(merge_checkpoints(sources, (1, 0), tmp_path / "m1").folder), tensors)
    assert_same_bits(read(merge_checkpoints(sources, (0, 1), tmp_path / "m2").folder), others)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.3, 0.7), (-0.25, 0.5, 0.75)])
def test_a_merge_is_the_fp64_interpolation_rounded_once(
    tmp_path: Path, dtype: torch.dtype, weights: tuple[float, ...]
) -> None:
    first = write_tiny_checkpoint(tmp_path / "0", dtype=dtype, shard_bytes=9000)
    folders = [
        first,
        *(write_variant(first, tmp_path / str(n), seed=n, shard=5000 * n) for n in range(1, len(weights))),
    ]
    held = [read(folder) for folder in folders]
    merged = merge_checkpoints(
        [open_checkpoint(folder) for folder in folders],
        weights,
        tmp_path / "merged",
        shard_bytes=12_000,
        chunk_numbers=77,
    )
    assert len(list(merged.folder.glob("*.safetensors"))) > 2
    expected = {}
    for name in held[0]:
        total = weights[0] * held[0][name].double().numpy()
        for weight, tensors in zip(weights[1:], held[1:], strict=True):
            total = total + weight * tensors[name].double().numpy()
        expected[name] = rounded_once(total, dtype)
    assert_same_bits(read(merged.folder), expected)


def test_what_a_rounding_through_fp32_would_get_wrong_is_right(tmp_path: Path) -> None:
    # The sums are 1 + 2^-8 +- 2^-37: next to a tie of bf16, which fp32 cannot tell them from.
    values = torch.tensor([1.0, 1.0, -1.0, 1.0])
    steps = torch.tensor([2.0**-7, 2.0**-7, -(2.0**-7), 0.0])
    save_file({"t": values.bfloat16()}, tmp_path / "a.safetensors")
    save_file({"t": (values + steps).bfloat16()}, tmp_path / "b.safetensors")
    parts = [read_header(tmp_path / name)["t"] for name in ("a.safetensors", "b.safetensors")]
    share = 0.5 + 2.0**-30
    above = np.concatenate(list(merged_chunks(parts, [1 - share, share], numbers=3)))
    below = np.concatenate(list(merged_chunks(parts, [share, 1 - share], numbers=3)))
    assert above.tolist() == [0x3F81, 0x3F81, 0xBF81, 0x3F80]
    assert below.tolist() == [0x3F80, 0x3F80, 0xBF80, 0x3F80]


def test_integers_go_to_the_nearest_one_and_stop_at_their_range(tmp_path: Path) -> None:
    for name, numbers in (("a", [1, 2, 100, -100, 7]), ("b", [2, 5, -100, 100, 7])):
        save_file({"t": torch.tensor(numbers, dtype=torch.int8)}, tmp_path / f"{name}.safetensors")
    for name, numbers in (("c", [2**62, 2**53 + 1]), ("d", [-(2**62), 2**53 + 1])):
        save_file({"t": torch.tensor(numbers)}, tmp_path / f"{name}.safetensors")
    narrow = [read_header(tmp_path / f"{name}.safetensors")["t"] for name in "ab"]
    wide = [read_header(tmp_path / f"{name}.safetensors")["t"] for name in "cd"]
    assert next(merged_chunks(narrow, [0.5, 0.5], numbers=9)).view(np.int8).tolist() == [2, 4, 0, 0, 7]
    assert next(merged_chunks(narrow, [2.0, -1.0], numbers=9)).view(np.int8).tolist() == [0, -1, 127, -128, 7]
    beyond = next(merged_chunks(wide, [2.0, -1.0], numbers=9)).view(np.int64).tolist()
    assert beyond == [2**63 - 1024, 2**53 + 1]


def test_each_tensor_keeps_the_first_ones_dtype(tmp_path: Path) -> None:
    first = write_tiny_checkpoint(tmp_path / "a", dtype=torch.bfloat16)
    kept = {name: t.float() + 2**-20 if name.endswith(("A_log", "dt_bias")) else t for name, t in read(first).items()}
    save_file(kept, first / SINGLE_FILE, metadata={"format": "pt"})
    second = write_variant(first, tmp_path / "b", seed=3, dtype=torch.float32)
    merged = merge_checkpoints([open_checkpoint(first), open_checkpoint(second)], (0.25, 0.75), tmp_path / "m")
    others, found = read(second), read(merged.folder)
    for name, tensor in kept.items():
        total = 0.25 * tensor.double().numpy() + 0.75 * others[name].double().numpy()
        assert_same_bits({name: found[name]}, {name: rounded_once(total, tensor.dtype)})


@pytest.mark.parametrize(
    "shape", [make_dense_shape("llama", tie_word_embeddings=1), make_moe_shape()], ids=["tied", "experts"]
)
def test_a_merge_loads_and_everything_else_is_the_first_ones(tmp_path: Path, shape: HybridShape) -> None:
    first = write_tiny_checkpoint(tmp_path / "a", shape=shape)
    (first / "generation_config.json").write_text('{"eos_token_id": 2}')
    (first / "artifact.json").write_text("{}")
    second = write_variant(first, tmp_path / "b", seed=4)
    (second / "generation_config.json").write_text('{"eos_token_id": 1}')
    merged = merge_checkpoints([open_checkpoint(first), open_checkpoint(second)], (0.5, 0.5), tmp_path / "m")
    models = [load_model(folder).state_dict() for folder in (first, second, merged.folder)]
    for name, tensor in models[2].items():
        torch.testing.assert_close(tensor, (models[0][name] + models[1][name]) / 2)
    assert not torch.equal(models[2][sorted(models[2])[0]], models[0][sorted(models[2])[0]])
    assert merged.config == open_checkpoint(first).config
    for name in ("tokenizer.json", "generation_config.json"):
        assert (merged.folder / name).read_bytes() == (first / name).read_bytes()
    assert not (merged.folder / "artifact.json").exists()


def test_memory_is_a_few_buffers_whatever_the_tensors_and_their_number(tmp_path: Path) -> None:
    numbers = 4096
    peaks = []
    for rows in (64, 1024):
        save_file({"t": torch.randn(rows, 1031)}, tmp_path / "t.safetensors")
        stored = read_header(tmp_path / "t.safetensors")["t"]
        tracemalloc.start()
        for _ in merged_chunks([stored, stored, stored], [0.2, 0.3, 0.5], numbers=numbers):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert 3 * 4 * numbers < peaks[1] < 10 * 8 * numbers < stored.nbytes / 10
    assert peaks[1] < 1.2 * peaks[0]
    assert CHUNK_NUMBERS * 8 <= 2**20


EXTRA = "mtp.layers.0.norm.weight"


def write_with_extra(folder: Path, *names: str, width: int = 22, fill: float = 1.0) -> Checkpoint:
    write_tiny_checkpoint(folder, shape=make_moe_shape())
    tensors = read(folder) | {name: torch.full((width,), fill) for name in names}
    save_file(tensors, folder / SINGLE_FILE, metadata={"format": "pt"})
    return open_checkpoint(folder)


def test_layers_that_predict_further_tokens_are_merged_too(tmp_path: Path) -> None:
    sources = [write_with_extra(tmp_path / "a", EXTRA, fill=1.0), write_with_extra(tmp_path / "b", EXTRA, fill=4.0)]
    merged = merge_checkpoints(sources, (0.5, 0.5), tmp_path / "m")
    assert read(merged.folder)[EXTRA].tolist() == [2.5] * 22
    assert set(merged.extras) == {EXTRA}


def refused(tmp_path: Path, match: str, *sources: Checkpoint, weights: tuple[float, ...] = (0.5, 0.5)) -> None:
    with pytest.raises(ValueError, match=match):
        merge_checkpoints(sources, weights, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_extra_layers_that_not_all_have_are_refused(tmp_path: Path) -> None:
    having, lacking = write_with_extra(tmp_path / "a", EXTRA), write_with_extra(tmp_path / "b")
    match = f"must hold the same tensors, .*/b lacks {EXTRA}, which .*/a holds"
    refused(tmp_path, match, having, lacking)
    refused(tmp_path, match, lacking, having)
    wider = write_with_extra(tmp_path / "c", EXTRA, width=23)
    refused(tmp_path, rf"{EXTRA} must have one shape .* \(22,\) in .*/a, got \(23,\) in .*/c", having, wider)


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ((0.5, 0.6), r"must sum to 1 within 1e-06, 0.5, 0.6 sum to 1.1"),
        ((0.5, 0.500002), "must sum to 1 within 1e-06"),
        ((1.0,), "one for each of the 2 checkpoints, got 1"),
        ((float("nan"), 0.5), "must be finite numbers, got nan, 0.5"),
        ((float("inf"), float("-inf")), "must be finite numbers"),
    ],
)
def test_weights_that_make_no_sum_are_refused(
    tmp_path: Path, tiny_checkpoint: Path, weights: tuple[float, ...], match: str
) -> None:
    source = open_checkpoint(tiny_checkpoint)
    refused(tmp_path, match, source, source, weights=weights)


def test_one_checkpoint_alone_is_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    refused(tmp_path, "two checkpoints or more are merged, got 1", open_checkpoint(tiny_checkpoint), weights=(1.0,))


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        (make_tiny_shape(hidden_size=26), "a has hidden_size 22; got hidden_size 26 in .*/b"),
        (
            make_tiny_shape(hybrid_override_pattern="M-*MM-*"),
            r"pattern M-\*MM-\*-; got hybrid_override_pattern M-\*MM-\* ",
        ),
        (make_dense_shape("llama"), "a has model_type nemotron_h; got model_type llama in .*/b"),
    ],
)
def test_another_shape_is_refused_by_the_sizes_that_differ(tmp_path: Path, shape: HybridShape, match: str) -> None:
    first, other = write_tiny_checkpoint(tmp_path / "a"), write_tiny_checkpoint(tmp_path / "b", shape=shape)
    refused(tmp_path, match, open_checkpoint(first), open_checkpoint(other))


def test_a_tied_head_and_one_of_its_own_are_refused(tmp_path: Path) -> None:
    shapes = (make_dense_shape("llama", tie_word_embeddings=1), make_dense_shape("llama"))
    sources = [
        open_checkpoint(write_tiny_checkpoint(tmp_path / name, shape=shape))
        for name, shape in zip("ab", shapes, strict=True)
    ]
    refused(tmp_path, "a has tie_word_embeddings 1; got tie_word_embeddings 0 in .*/b", *sources)


def test_another_tokenizer_is_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    other = write_variant(tiny_checkpoint, tmp_path / "b", seed=1)
    vocabulary = json.loads((other / "tokenizer.json").read_text())
    vocabulary["model"]["vocab"]["a"], vocabulary["model"]["vocab"]["b"] = 9, 8
    (other / "tokenizer.json").write_text(json.dumps(vocabulary))
    sources = [open_checkpoint(tiny_checkpoint), open_checkpoint(other)]
    refused(tmp_path, "an id is one token in both, 8 is '.' in .*/teacher and 'b' in .*/b", *sources)
    (other / "tokenizer.json").unlink()
    refused(tmp_path, "/b has no tokenizer.json to compare with that of .*/teacher", *sources)


@pytest.mark.parametrize("shape", [make_tiny_shape, partial(make_dense_shape, "llama", tie_word_embeddings=1)])
@pytest.mark.parametrize("rows", [(271, 288), (288, 271), (288, 271, 301)])
def test_rows_of_padding_are_the_first_one_s_and_all_others_are_merged(
    tmp_path: Path, shape: Callable[..., HybridShape], rows: tuple[int, ...]
) -> None:
    folders = [write_tiny_checkpoint(tmp_path / f"{at}", shape=shape(vocab_size=size)) for at, size in enumerate(rows)]
    folders[1:] = [write_variant(folder, tmp_path / f"v{folder.name}", seed=3) for folder in folders[1:]]
    weights = [0.25, *([0.75 / (len(rows) - 1)] * (len(rows) - 1))]
    merged = merge_checkpoints([open_checkpoint(folder) for folder in folders], weights, tmp_path / "merged")
    assert merged.shape.vocab_size == rows[0]
    first, found, common = read(folders[0]), read(merged.folder), min(rows)
    cut = {first[name].shape for name in (merged.shape.family.embeddings, merged.shape.head_tensor)}
    for name, tensor in first.items():
        kept = common if tensor.shape in cut else len(tensor)
        summed = sum(
            weight * read(folder)[name][:kept].double() for weight, folder in zip(weights, folders, strict=True)
        )
        torch.testing.assert_close(found[name][:kept].double(), summed, rtol=1e-6, atol=1e-6)
        assert torch.equal(found[name][kept:], tensor[kept:])


def test_a_row_of_a_token_that_only_one_has_is_refused(tmp_path: Path) -> None:
    sources = [
        open_checkpoint(write_tiny_checkpoint(tmp_path / f"{size}", shape=make_tiny_shape(vocab_size=size)))
        for size in (271, 250)
    ]
    refused(tmp_path, "embeddings of the same tokens, only one of .*/271 and .*/250 has them of 250, ", *sources)


def test_quantized_weights_are_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    source = open_checkpoint(tiny_checkpoint)
    refused(tmp_path, "must not be quantized to be merged, .* are fp8", source, replace(source, weights_format="fp8"))


def test_a_dtype_without_a_sum_is_refused_by_name(tmp_path: Path, tiny_checkpoint: Path) -> None:
    source = open_checkpoint(tiny_checkpoint)
    name, stored = next(iter(source.tensors.items()))

    def stored_as(dtype: str) -> Checkpoint:
        found = StoredTensor(file=stored.file, dtype=dtype, shape=stored.shape, start=stored.start)
        return replace(source, tensors={**source.tensors, name: found})

    refused(tmp_path, f"to be merged, {name} in .* is F8_E4M3", source, stored_as("F8_E4M3"))
    refused(tmp_path, f"stored alike .*, {name} is F32 in .*, got I32", source, stored_as("I32"))


def test_an_output_folder_that_holds_something_is_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    source = open_checkpoint(tiny_checkpoint)
    before = {path.name: path.read_bytes() for path in tiny_checkpoint.iterdir()}
    with pytest.raises(ValueError, match="must be new or empty"):
        merge_checkpoints([source, source], (0.5, 0.5), tiny_checkpoint)
    assert {path.name: path.read_bytes() for path in tiny_checkpoint.iterdir()} == before


def test_a_source_that_shrinks_leaves_nothing_that_opens(tmp_path: Path, tiny_checkpoint: Path) -> None:
    other = open_checkpoint(write_variant(tiny_checkpoint, tmp_path / "b", seed=1))
    path = other.folder / SINGLE_FILE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="ends before its tensors do"):
        merge_checkpoints([open_checkpoint(tiny_checkpoint), other], (0.5, 0.5), tmp_path / "m")
    assert not (tmp_path / "m" / "config.json").exists()


def test_a_setting_that_is_not_taken_is_warned_of(
    tmp_path: Path, tiny_checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = write_variant(tiny_checkpoint, tmp_path / "b", seed=1)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"layer_norm_epsilon": 0.5, "_name_or_path": "elsewhere"}))
    merge_checkpoints([open_checkpoint(tiny_checkpoint), open_checkpoint(other)], (0.5, 0.5), tmp_path / "m")
    assert "of another layer_norm_epsilon than the first one's" in caplog.text


def test_weights_that_are_short_of_one_in_their_last_digits_are_made_whole() -> None:
    assert abs(sum(interpolation_weights([0.3333333] * 3, 3)) - 1) < 1e-15
    assert interpolation_weights([1.5, -0.5], 2) == [1.5, -0.5]
