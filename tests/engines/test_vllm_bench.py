"""`minitron bench --engine vllm` on CPU: what it prints, and the cache that it asks for."""

import json
from pathlib import Path

import pytest

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.cli.main import main
from minitron.estimate.serving.vllm_cache import cache_blocks
from minitron.estimate.serving.workload import Engine, Workload
from minitron.evaluate.speed.bench import BenchSettings, _program_settings
from minitron.evaluate.speed.worker import Worker, engine_command
from tests.engines.checkpoints import EVERYTHING, write_checkpoints
from tests.engines.run_vllm import NEEDS_VLLM, PYTHON

pytestmark = NEEDS_VLLM
CONCURRENCY, INPUT, OUTPUT = 3, 150, 6


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_checkpoints("nemotron_h", tmp_path_factory.mktemp("bench"))


def test_teacher_and_student_side_by_side_in_vllm(folders: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    models = [str(folders["teacher"]), str(folders[EVERYTHING])]
    lengths = ["--input-tokens", str(INPUT), "--output-tokens", str(OUTPUT), "--concurrency", str(CONCURRENCY)]
    words = ["--engine", "vllm", "--engine-python", str(PYTHON), "--enforce-eager", "--repetitions", "2"]
    assert main(["bench", *models, *lengths, *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["engine"].startswith("vLLM ")
    assert (found["device"], found["dtype"]) == ("cpu", "fp32")
    for model in models:
        speed = found["speeds"][model]
        assert 0 < speed["first_token_s"]["median"] < CONCURRENCY * OUTPUT / speed["tokens_per_s"]["median"]
        assert speed["peak_bytes"] > open_checkpoint(Path(model)).weights_bytes
        assert found["predicted"][model] > 0


def test_a_checkpoint_that_vllm_refuses_is_told(folders: dict[str, Path], tmp_path: Path) -> None:
    settings = BenchSettings(engine="vllm", input_tokens=INPUT, output_tokens=OUTPUT, concurrency=CONCURRENCY)
    asked = _program_settings(open_checkpoint(folders["teacher"]), settings, 0.9)
    shape = open_checkpoint(folders["teacher"]).shape
    workload = Workload(
        context_tokens=INPUT + OUTPUT,
        accounting="vllm",
        kv_dtype="fp32",
        conv_dtype="fp32",
        engine=Engine(max_num_seqs=CONCURRENCY, block_size=128, prefix_caching=False),
    )
    blocks = cache_blocks(shape.family, shape.counts, shape.sizes, workload)
    assert blocks is not None
    cache_bytes = asked["cache_bytes"]
    assert isinstance(cache_bytes, dict)
    assert cache_bytes["cpu"] == (CONCURRENCY * blocks.blocks_per_sequence + 1) * blocks.pool_block_bytes
    # vLLM keeps one block for itself; what is left must hold one sequence, or it does not start.
    small = asked | {"cache_bytes": {"cpu": blocks.blocks_per_sequence * blocks.pool_block_bytes}}
    with pytest.raises(Exception, match="the engine must run .* it stopped: .*[Kk][Vv] cache"):
        Worker(engine_command("vllm", str(PYTHON)), small | {"enforce_eager": True})
