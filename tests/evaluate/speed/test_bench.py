"""`minitron bench` in transformers: processes, wrong input, and what the throughput model says of a batch."""

import json
import sys
from pathlib import Path

import pytest

from minitron.cli.main import main
from minitron.errors import MinitronError
from minitron.estimate.devices import Device
from minitron.estimate.serving.throughput import predict_batch_tokens_per_second
from minitron.estimate.serving.workload import Lengths, Workload
from minitron.evaluate.speed.generate import run_wave
from minitron.evaluate.speed.machine import measure_cpu
from minitron.evaluate.speed.worker import Worker, engine_command
from minitron.models.shape import HybridShape
from minitron.runtime.loading import load_model
from tests.support.models import make_tiny_shape, write_tiny_checkpoint

LENGTHS = ["--input-tokens", "7", "--output-tokens", "3", "--concurrency", "2", "--repetitions", "1"]


@pytest.mark.processes
def test_two_checkpoints_side_by_side(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_tiny_checkpoint(tmp_path / "other", shape=make_tiny_shape(vocab_size=97))
    assert main(["bench", str(tiny_checkpoint), str(other), *LENGTHS, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["device"], found["dtype"]) == ("cpu", "fp32")
    assert found["engine"].startswith("transformers ")
    assert list(found["speeds"]) == list(found["predicted"]) == [str(tiny_checkpoint), str(other)]
    first, second = found["speeds"].values()
    assert first["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    ratio = second["tokens_per_s"]["median"] / first["tokens_per_s"]["median"]
    assert second["ratio"]["median"] == pytest.approx(ratio)
    for speed in (first, second):
        assert speed["concurrency"] == 2
        assert 0 < speed["first_token_s"]["median"] < 6 / speed["tokens_per_s"]["median"]
        assert speed["inter_token_s"]["median"] > 0
        assert speed["peak_bytes"] > 0


def test_generation_is_timed_at_every_token(tiny_checkpoint: Path) -> None:
    model = load_model(tiny_checkpoint)
    wave = run_wave(model, [[5, 6, 7], [8, 9, 10]], 4)
    assert wave.output_tokens == 8
    assert 0 < wave.first_s[0] == wave.first_s[1] < wave.last_s[0] == wave.last_s[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine", "sglang"], "engine"),
        (["--engine", "vllm", "--engine-python", "/no/python"], "vLLM's Python must be a program"),
        (["--engine", "vllm", "--device", "cuda:0"], "leave --device out"),
        (["--device", "gpu"], "device must be one that torch knows"),
    ],
)
def test_what_cannot_be_measured_is_told_in_a_line(
    words: list[str], message: str, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(tiny_checkpoint), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_checkpoint_is_not_compared_with_itself(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tiny_checkpoint), str(tiny_checkpoint)]) == 2
    assert "one is given twice" in capsys.readouterr().err


@pytest.mark.processes
def test_an_engine_that_stops_says_its_last_words() -> None:
    program = "import sys; print('noise'); sys.exit('no such kernel')"
    with pytest.raises(MinitronError, match="the engine must run somewhere, it stopped: no such kernel"):
        Worker([sys.executable, "-c", program], {"model": "somewhere"})


def test_vllm_is_looked_for_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINITRON_VLLM_PYTHON", sys.executable)
    assert engine_command("vllm")[0] == sys.executable
    assert engine_command("transformers", "/a/python")[0] == "/a/python"


def test_a_batch_is_predicted_from_measured_rates_as_they_are(tiny_shape: HybridShape) -> None:
    rates = {"bandwidth_gb_s": 10.0, "bf16_tflops": 0.5, "fp32_tflops": 0.25}
    lengths = Lengths(input_tokens=1, output_tokens=1000)
    workload = Workload(context_tokens=1001, weights_dtype="fp32")

    def predicted(*, is_measured: bool, weights: str = "fp32") -> float:
        device = Device(name="x", visible_gib=1, source="here", is_measured=is_measured, **rates)
        changed = workload.changed(weights_dtype=weights)
        return predict_batch_tokens_per_second(tiny_shape, changed, device, lengths, 64)

    # 64 sequences of a tiny model are bound by operations: half as fast in fp32, and peaks are never reached.
    assert predicted(is_measured=True, weights="bf16") > predicted(is_measured=True)
    assert predicted(is_measured=False) < predicted(is_measured=True)


def test_rates_of_this_machine_are_those_of_a_machine() -> None:
    device = measure_cpu()
    assert device.is_measured
    assert 0.5 < device.visible_gib < 2**14
    assert device.bandwidth_gb_s is not None
    assert 0.5 < device.bandwidth_gb_s < 5000
    assert device.fp32_tflops is not None
    assert 1e-3 < device.fp32_tflops < 1000
