"""Writing from file to file gives what cutting whole tensors in memory gives, bit for bit."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from minitron.checkpoints.checkpoint import Checkpoint
from minitron.checkpoints.headers import INDEX_FILE, SINGLE_FILE, read_headers
from minitron.checkpoints.rounding import convert
from minitron.checkpoints.writing.journal import JOURNAL_FILE, resumable
from minitron.checkpoints.writing.layout import plan_layout
from minitron.checkpoints.writing.streaming import write_layout
from minitron.models.slicing import TensorCut, cut_tensor
from tests.support.models import make_tiny_shape

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
OTHERS = {"I64": torch.int64, "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn}
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def make_source(folder: Path, tensors: Mapping[str, torch.Tensor], *, files: int = 1) -> Checkpoint:
    """A folder of tensors with the face of a checkpoint: what they mean is no concern of the writer."""
    folder.mkdir()
    parts = [dict(list(tensors.items())[number::files]) for number in range(files)]
    parts = [part for part in parts if part]
    if len(parts) == 1:
        save_file(parts[0], folder / SINGLE_FILE)
    else:
        names = {name: f"part-{number}.safetensors" for number, part in enumerate(parts) for name in part}
        for number, part in enumerate(parts):
            save_file(part, folder / f"part-{number}.safetensors")
        (folder / INDEX_FILE).write_text(json.dumps({"weight_map": names}))
    return Checkpoint(folder=folder, config={}, shape=make_tiny_shape(), tensors=read_headers(folder))


def write_cuts(
    source: Checkpoint,
    cuts: list[TensorCut],
    output: Path,
    *,
    shard_bytes: int = 2**20,
    dtype: str | None = None,
    threads: int = 1,
    buffer_bytes: int = 4096,
) -> dict[str, torch.Tensor]:
    layout = plan_layout(source, cuts, shard_bytes=shard_bytes, dtype=dtype)
    names = [*(shard.name for shard in layout.shards), INDEX_FILE]
    with resumable(output, inputs_hash=layout.inputs_hash, files=names) as journal:
        write_layout(layout, journal, threads=threads, buffer_bytes=buffer_bytes)
    return {name: tensor for path in output.glob("*.safetensors") for name, tensor in load_file(path).items()}


def assert_same_bits(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Every bit, but for what a NaN carries: that differs between torch's own processors."""
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    number = ~theirs.isnan() if theirs.dtype in FLOATS.values() else torch.ones(theirs.shape, dtype=torch.bool)
    if theirs.dtype in FLOATS.values():
        assert torch.equal(ours.isnan(), ~number)
    word = WORDS[theirs.element_size()]
    assert torch.equal(ours.contiguous().view(word)[number], theirs.contiguous().view(word)[number])


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, torch.Tensor], list[TensorCut]]:
    tensors, cuts = {}, []
    for number in range(draw(st.integers(1, 4))):
        dtype = draw(st.sampled_from([*FLOATS, *OTHERS]))
        shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        raw = torch.from_numpy(rng.integers(0, 256, math.prod(shape) * 8, dtype=np.uint8))
        torch_dtype = (FLOATS | OTHERS)[dtype]
        tensors[f"t{number}"] = raw[: math.prod(shape) * torch_dtype.itemsize].view(torch_dtype).reshape(shape)
        kept = []
        for size in shape:
            way = draw(st.sampled_from(["all", "ascending", "any"]))
            count = int(rng.integers(1, size + 1))
            chosen = rng.permutation(size)[:count]
            kept.append(None if way == "all" else np.sort(chosen) if way == "ascending" else chosen)
        if len(shape) > 1 and draw(st.booleans()):  # each entry of a stack keeps positions of its own
            entries, own = shape[0] if kept[0] is None else len(kept[0]), draw(st.integers(1, len(shape) - 1))
            count = int(rng.integers(1, shape[own] + 1))
            kept[own] = np.stack([rng.permutation(shape[own])[:count] for _ in range(entries)])
        scale = draw(st.sampled_from([1.0, 1.0, 0.3, 7.0])) if dtype in FLOATS else 1.0
        plus = draw(st.sampled_from([0.0, 1.0]))
        cuts.append(
            TensorCut(name=f"new.{number}", source=f"t{number}", before=shape, kept=tuple(kept), scale=scale, plus=plus)
        )
    return tensors, cuts


@settings(max_examples=150)
@given(
    case=cases(),
    files=st.integers(1, 3),
    shard_bytes=st.sampled_from([1, 50, 300, 2**20]),
    threads=st.integers(1, 3),
    buffer_bytes=st.sampled_from([1, 7, 40, 4096]),
)
def test_every_bit_is_that_of_the_cut_in_memory(
    case: tuple[dict[str, torch.Tensor], list[TensorCut]], files: int, shard_bytes: int, threads: int, buffer_bytes: int
) -> None:
    tensors, cuts = case
    with TemporaryDirectory() as folder:
        source = make_source(Path(folder) / "source", tensors, files=files)
        written = write_cuts(
            source,
            cuts,
            Path(folder) / "output",
            shard_bytes=shard_bytes,
            threads=threads,
            buffer_bytes=buffer_bytes,
        )
        assert written.keys() == {cut.name for cut in cuts}
        for cut in cuts:
            assert_same_bits(written[cut.name], cut_tensor(tensors[cut.source], cut))


@settings(max_examples=60)
@given(
    before=st.sampled_from(list(FLOATS)),
    after=st.sampled_from(list(FLOATS)),
    scale=st.sampled_from([1.0, 0.3, -5.5, 3e5]),
    seed=st.integers(0, 2**32 - 1),
)
def test_conversion_rounds_as_torch_does(before: str, after: str, scale: float, seed: int) -> None:
    raw = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, 8 * 512, dtype=np.uint8))
    near_one = torch.from_numpy(np.random.default_rng(seed).normal(size=512)).to(FLOATS[before])
    ties = (1 + torch.arange(512, dtype=torch.float64) * 2.0**-9).to(FLOATS[before])
    tensor = torch.cat([raw.view(FLOATS[before]), near_one, ties])
    cut = TensorCut(name="t", source="t", before=tuple(tensor.shape), kept=(None,), scale=scale)
    with TemporaryDirectory() as folder:
        source = make_source(Path(folder) / "source", {"t": tensor})
        written = write_cuts(source, [cut], Path(folder) / "output", dtype=after)
    assert_same_bits(written["t"], cut_tensor(tensor, cut).to(FLOATS[after]))


def test_every_bf16_pattern_widens_and_comes_back() -> None:
    every = np.arange(2**16, dtype=np.uint16)
    back = convert(convert(every, before="BF16", after="F32").view("<f4"), before="F32", after="BF16")
    is_nan = (every & 0x7FFF) > 0x7F80
    np.testing.assert_array_equal(back[~is_nan], every[~is_nan])
    assert (back[is_nan] == 0x7FC0).all()


def test_a_tensor_without_dims_or_elements_is_written(tmp_path: Path) -> None:
    tensors = {"scalar": torch.tensor(3.5), "empty": torch.empty(0, 4)}
    cuts = [
        TensorCut(name="scalar", source="scalar", before=(), kept=()),
        TensorCut(name="empty", source="empty", before=(0, 4), kept=(None, np.array([2]))),
    ]
    written = write_cuts(make_source(tmp_path / "source", tensors), cuts, tmp_path / "output")
    assert written["scalar"] == 3.5
    assert written["empty"].shape == (0, 1)


def test_shards_keep_to_their_size_and_the_index_counts_them(tmp_path: Path) -> None:
    tensors = {f"t{number}": torch.randn(10, 10) for number in range(5)}
    cuts = [TensorCut(name=name, source=name, before=(10, 10), kept=(None, None)) for name in tensors]
    write_cuts(make_source(tmp_path / "source", tensors), cuts, tmp_path / "output", shard_bytes=900)
    index = json.loads((tmp_path / "output" / INDEX_FILE).read_text())
    assert index["metadata"] == {"total_parameters": 500, "total_size": 2000}
    names = [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]
    assert sorted(path.name for path in (tmp_path / "output").iterdir()) == [*names, INDEX_FILE]
    assert list(index["weight_map"].values()) == [names[0], names[0], names[1], names[1], names[2]]
    for name in names:
        with safe_open(tmp_path / "output" / name, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}


def test_tensors_are_aligned_to_their_width_in_a_shard_of_several_dtypes(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(3, dtype=torch.bfloat16), "b": torch.ones(5), "c": torch.ones(1, dtype=torch.float64)}
    cuts = [TensorCut(name=name, source=name, before=tuple(t.shape), kept=(None,)) for name, t in tensors.items()]
    write_cuts(make_source(tmp_path / "source", tensors), cuts, tmp_path / "output")
    for stored in read_headers(tmp_path / "output").values():
        assert stored.start % (stored.nbytes // stored.numel) == 0


def test_a_whole_tensor_is_one_read_and_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import minitron.checkpoints.writing.streaming as stream

    tensors = {"t": torch.randn(20, 30)}
    source = make_source(tmp_path / "source", tensors)
    rows = np.arange(4, 17)
    cut = TensorCut(name="t", source="t", before=(20, 30), kept=(rows, None))
    calls: list[int] = []
    read, write = stream.os.preadv, stream.os.pwrite
    monkeypatch.setattr(stream.os, "preadv", lambda *args: calls.append(1) or read(*args))
    monkeypatch.setattr(stream.os, "pwrite", lambda *args: calls.append(2) or write(*args))
    written = write_cuts(source, [cut], tmp_path / "output", buffer_bytes=2**20)
    assert calls == [1, 2]
    assert_same_bits(written["t"], tensors["t"][4:17])


def test_dropped_rows_farther_apart_than_a_request_costs_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import minitron.checkpoints.writing.streaming as stream

    tensors = {"t": torch.randn(100, 4096)}
    cut = TensorCut(name="t", source="t", before=(100, 4096), kept=(np.array([0, 1, 50, 99]), None))
    got: list[int] = []
    read = stream.os.preadv

    def counted(*args: object) -> int:
        got.append(read(*args))
        return got[-1]

    source = make_source(tmp_path / "source", tensors)
    monkeypatch.setattr(stream.os, "preadv", counted)
    written = write_cuts(source, [cut], tmp_path / "output", buffer_bytes=2**21)
    assert sum(got) == 4 * 4096 * 4
    assert_same_bits(written["t"], tensors["t"][[0, 1, 50, 99]])


def test_integers_are_neither_converted_nor_scaled(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", {"t": torch.arange(4)})
    cut = TensorCut(name="t", source="t", before=(4,), kept=(None,))
    with pytest.raises(ValueError, match="must be one of .* to be scaled or converted, t in .* is I64"):
        plan_layout(source, [cut], shard_bytes=100, dtype="BF16")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"source": "nowhere"}, "it holds no nowhere"),
        ({"before": (5,)}, r"t must have the shape \(5,\), .* stores \(4,\)"),
    ],
)
def test_a_cut_of_another_tensor_is_refused(tmp_path: Path, change: dict[str, object], fault: str) -> None:
    source = make_source(tmp_path / "source", {"t": torch.randn(4)})
    described = {"name": "t", "source": "t", "before": (4,), "kept": (None,)} | change
    with pytest.raises(ValueError, match=fault):
        plan_layout(source, [TensorCut(**described)], shard_bytes=100)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "fault"),
    [({"dtype": "I8"}, "dtype must be one of"), ({"shard_bytes": 0}, "shard_bytes must be positive")],
)
def test_impossible_settings_are_refused(tmp_path: Path, settings: dict[str, object], fault: str) -> None:
    source = make_source(tmp_path / "source", {"t": torch.randn(4)})
    cut = TensorCut(name="t", source="t", before=(4,), kept=(None,))
    with pytest.raises(ValueError, match=fault):
        plan_layout(source, [cut], **({"shard_bytes": 100} | settings))  # type: ignore[arg-type]


def test_a_finished_folder_holds_no_trace(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", {"t": torch.randn(4)})
    write_cuts(source, [TensorCut(name="t", source="t", before=(4,), kept=(None,))], tmp_path / "output")
    assert [path.name for path in (tmp_path / "output").iterdir()] == [SINGLE_FILE]
    assert not (tmp_path / "output" / JOURNAL_FILE).exists()
