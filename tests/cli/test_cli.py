"""What a user sees of the command line: one line a fault and exit 2, JSON on stdout, and nothing else there."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from minitron.artifacts.artifact import write_artifact
from minitron.checkpoints.checkpoint import checkpoint_hashes, open_checkpoint
from minitron.checkpoints.headers import SINGLE_FILE
from minitron.cli.main import main
from minitron.importance.scores import random_scores, save_scores
from minitron.models.shape import HybridShape
from tests.support.commands import fail
from tests.support.torch_free import run_commands


def test_a_misspelt_key_is_one_line(recipe_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fail(capsys, "run", str(recipe_path), "--set", "distill.tokns=5")
    assert line.endswith("unknown key distill.tokns; did you mean tokens?")


def test_an_impossible_budget_is_one_line(
    tmp_path: Path,
    recipe_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = fail(capsys, "run", str(recipe_path), "--output", str(tmp_path / "run"), "--set", "budget.memory_bytes=1000")
    assert "the budget must hold at least one of the 18 shapes" in line
    assert "got 1,000 bytes" in line


def test_a_missing_teacher_is_one_line(recipe_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fail(capsys, "run", str(recipe_path), "--set", "teacher=nowhere")
    assert "checkpoint folder not found" in line


def test_a_truncated_teacher_is_one_line(
    tmp_path: Path,
    recipe_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "teacher" / SINGLE_FILE
    path.write_bytes(path.read_bytes()[:-1000])
    assert "model.safetensors is truncated" in fail(capsys, "run", str(recipe_path))


def test_an_unknown_stage_is_one_line(recipe_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "a stage must be one of score, search" in fail(capsys, "run", str(recipe_path), "--to", "destill")


def test_a_missing_recipe_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "recipe not found" in fail(capsys, "run", "nowhere.yaml")


FIT_KEYS = {
    "params",
    "weights_bytes",
    "kv_bytes",
    "ssm_bytes",
    "conv_bytes",
    "workspace_bytes",
    "total_bytes",
    "budget_bytes",
    "fits",
    "headroom_bytes",
    "max_context_tokens",
    "max_sequences",
}


def fit(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main(["fit", *argv, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_fit_answers_from_a_checkpoint_and_from_a_config(
    tiny_checkpoint: Path, tiny_shape: HybridShape, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [
        fit(capsys, str(model), "--gpu", "a10g", "--context", "64", "--weights", "bf16")
        for model in (tiny_checkpoint, tiny_checkpoint / "config.json")
    ]
    assert answers[0] == answers[1]
    assert answers[0]["params"] == tiny_shape.params
    assert set(answers[0]) >= FIT_KEYS
    assert answers[0]["verdict"] == "fits"


def test_fit_takes_a_folders_weights_as_they_are_stored(
    tiny_checkpoint: Path, tiny_shape: HybridShape, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = fit(capsys, str(tiny_checkpoint))
    assert stored["weights_bytes"] == 4 * tiny_shape.params
    assert stored["blocks"]["M"]["weights_bytes"] == 4 * tiny_shape.block_params("M")
    # Of a configuration alone the precision that it says.
    assert fit(capsys, str(tiny_checkpoint / "config.json"))["weights_bytes"] == 4 * tiny_shape.params


def test_the_line_that_serves_asks_for_no_more_tokens_than_the_configuration_has(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_checkpoint / "config.json"
    longest = json.loads(path.read_text())["max_position_embeddings"]
    for context, served in ((longest - 1, longest - 1), (longest, longest), (longest + 1, longest)):
        answer = fit(capsys, str(path), "--accounting", "vllm", "--context", str(context))
        assert f" --max-model-len {served} " in answer["serve"]


def test_fit_by_vllms_accounting_gives_its_blocks_and_the_line_that_serves(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = fit(capsys, str(tiny_checkpoint), "--accounting", "vllm", "--context", "64", "--max-num-seqs", "7")
    assert {*FIT_KEYS, "block_tokens", "page_bytes", "num_blocks", "blocks_per_sequence"} <= set(answer)
    assert answer["serve"].startswith(f"vllm serve {tiny_checkpoint} --max-model-len 64 --max-num-seqs 7 ")
    reserved = fit(capsys, str(tiny_checkpoint), "--accounting", "vllm", "--reserved-gib", "11.03", "--context", "64")
    assert "--gpu-memory-utilization 0.4199 " in reserved["serve"] or "-utilization 0.42 " in reserved["serve"]
    none = fit(capsys, str(tiny_checkpoint), "--accounting", "vllm", "--memory-gib", "0.5")
    assert none["serve"] is None
    assert main(["fit", str(tiny_checkpoint), "--accounting", "vllm", "--context", "64"]) == 0
    shown = capsys.readouterr().out
    assert "workspace, assumed" in shown
    assert "saved by --no-prefix-caching" in shown


def test_fit_shares_prefixes_as_vllm_does_and_says_what_turning_it_off_saves(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (str(tiny_checkpoint), "--accounting", "vllm", "--context", "64")
    shared, alone = fit(capsys, *asked), fit(capsys, *asked, "--no-prefix-caching")
    assert shared == fit(capsys, *asked, "--prefix-caching")
    assert shared["serve"].endswith(" --enable-prefix-caching")
    assert alone["serve"].endswith(" --no-enable-prefix-caching")
    assert shared["total_bytes"] - alone["total_bytes"] == shared["prefix_caching_bytes"] > 0
    assert alone["prefix_caching_bytes"] == 0
    assert main(["fit", *asked, "--no-prefix-caching"]) == 0
    assert "saved by" not in capsys.readouterr().out


def test_fit_takes_the_block_size_of_another_platform(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (str(tiny_checkpoint), "--accounting", "vllm", "--context", "64", "--block-size", "128")
    answer = fit(capsys, *asked, "--kv", "fp32", "--conv", "fp32")
    assert answer["block_tokens"] % 128 == 0
    assert " --block-size 128 " in answer["serve"]
    assert " --dtype float32 " in answer["serve"]


def test_fit_predicts_throughput_for_given_lengths(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lengths = ["--input-tokens", "10", "--output-tokens", "20"]
    assert fit(capsys, str(tiny_checkpoint), *lengths)["tokens_per_s"] > 0
    assert "are given together" in fail(capsys, "fit", str(tiny_checkpoint), *lengths[:2])
    assert "needs the bandwidth" in fail(capsys, "fit", str(tiny_checkpoint), "--memory-gib", "2", *lengths)
    own = ["--memory-gib", "2", "--bandwidth-gb-s", "100", "--bf16-tflops", "10"]
    assert fit(capsys, str(tiny_checkpoint), *own, *lengths)["tokens_per_s"] > 0
    assert "describe a GPU of --memory-gib" in fail(capsys, "fit", str(tiny_checkpoint), *own[2:])


def test_fit_reads_a_live_device(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1, 5 * 2**30))
    name = {"is": "NVIDIA L4"}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name["is"])
    lengths = ["--input-tokens", "10", "--output-tokens", "20"]
    answer = fit(capsys, str(tiny_checkpoint), "--gpu", "cuda:0", "--utilization", "1", *lengths)
    assert answer["budget_bytes"] == 5 * 2**30
    assert answer["tokens_per_s"] > 0
    for product, has_rates in (
        ("NVIDIA GeForce RTX 4090", True),
        ("NVIDIA A100-SXM4-80GB", True),
        ("H100 PCIe", False),
    ):
        name["is"] = product
        argv = ["fit", str(tiny_checkpoint), "--gpu", "cuda:0", *lengths]
        assert main(argv) == (0 if has_rates else 2)
    capsys.readouterr()
    assert "it sees 1 CUDA devices, got cuda:3" in fail(capsys, "fit", str(tiny_checkpoint), "--gpu", "cuda:3")


def test_a_context_beyond_the_configs_is_warned_of(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    fit(capsys, str(tiny_checkpoint), "--context", "99999999")
    assert "max_position_embeddings" in caplog.text


def test_fit_loads_no_torch(tiny_checkpoint: Path) -> None:
    program = (
        "import sys; from minitron.cli.main import main; "
        f"code = main(['fit', {str(tiny_checkpoint / 'config.json')!r}]); "
        "sys.exit(code or any(name in sys.modules for name in ('torch', 'transformers', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, capture_output=True).returncode == 0


def test_check_says_on_stdout_and_by_its_exit_code_who_takes_a_checkpoint(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(tiny_checkpoint), "--reader", "vllm", "transformers", "--json"]) == 0
    ended = capsys.readouterr()
    answer = json.loads(ended.out)
    assert (answer["takes"], answer["tensor_parallel"], list(answer["readers"])) == (True, 1, ["vllm", "transformers"])
    assert answer["readers"]["vllm"]["refusals"] == []
    assert ended.err == ""


def test_check_prints_its_object_and_a_line_a_fault_where_a_reader_refuses(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(tiny_checkpoint), "--reader", "vllm", "sglang", "--tensor-parallel", "2", "--json"]) == 2
    ended = capsys.readouterr()
    answer = json.loads(ended.out)
    found = [(name, refusal) for name, reader in answer["readers"].items() for refusal in reader["refusals"]]
    assert not answer["takes"]
    assert all(list(refusal) == ["key", "rule", "found", "mend", "source"] for _, refusal in found)
    lines = ended.err.splitlines()
    assert len(lines) == len(found)
    for line, (name, refusal) in zip(lines, found, strict=True):
        assert line.startswith(f"minitron: {name} ")
        assert all(part in line for part in refusal.values())


def test_check_without_a_reader_asks_the_newest_of_each(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["check", str(tiny_checkpoint / "config.json"), "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert list(answer["readers"]) == ["vllm", "sglang", "llamacpp", "tensorrt-llm", "mlx", "transformers"]
    main(["check", str(tiny_checkpoint / "config.json")])
    shown = capsys.readouterr().out
    assert "vllm 0.33.0" in shown
    assert "refuses it: " in shown


def test_check_takes_less_than_a_second_and_loads_no_torch(tiny_checkpoint: Path) -> None:
    (ended,) = run_commands([("check", str(tiny_checkpoint), "--reader", "vllm")], tiny_checkpoint)
    assert (ended.code, ended.heavy) == (0, [])
    assert ended.cpu_seconds < 1.5


def test_score_prune_and_eval_work_one_by_one(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("some words to calibrate on\n" * 40)
    scores, pruned = tmp_path / "scores", tmp_path / "pruned"
    checkpoint = str(tiny_checkpoint)
    calibration = ["--data", str(text), "--samples", "3", "--seq-len", "16"]
    assert main(["score", checkpoint, *calibration, "--output", str(scores), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["blocks"]) == 8
    shape = '{"hidden_size": 14, "num_hidden_layers": 6}'
    assert (
        main(["prune", checkpoint, "--scores", str(scores), "--shape", shape, "--output", str(pruned), "--json"]) == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert result["params"] == open_checkpoint(pruned).params
    assert result["shape"]["hidden_size"] == 14
    arguments = ["--data", str(text), "--teacher", checkpoint, "--blocks", "2", "--seq-len", "16", "--json"]
    assert main(["eval", str(pruned), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["kl_to_teacher"] > 0
    again = ["prune", checkpoint, "--scores", str(scores), "--output", str(pruned)]
    assert main([*again, "--shape", shape, "--json"]) == 0  # made from the same inputs: taken as it is
    assert json.loads(capsys.readouterr().out) == result
    assert "must be new or empty" in fail(capsys, *again, "--shape", '{"hidden_size": 18, "num_hidden_layers": 6}')


def test_scores_of_another_checkpoint_are_refused(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("some words to calibrate on\n" * 40)
    arguments = ["--data", str(text), "--samples", "2", "--seq-len", "16", "--output", str(tmp_path / "scores")]
    assert main(["score", str(tiny_checkpoint), *arguments]) == 0
    capsys.readouterr()
    path = tiny_checkpoint / SINGLE_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    shape = '{"hidden_size": 14}'
    pruning = ["--scores", str(tmp_path / "scores"), "--shape", shape, "--output", str(tmp_path / "pruned")]
    assert "are of another one" in fail(capsys, "prune", str(tiny_checkpoint), *pruning)


@pytest.mark.parametrize(
    ("shape", "fault"),
    [
        ('{"hidden_size": 99}', "hidden_size must not exceed the source's 22, got 99"),
        ('{"hidden_size": "14"}', "hidden_size must be a positive whole number, got '14'"),
        ('{"hidden": 14}', "a prunable dim must be one of hidden_size"),
        ('{"mamba_num_heads": 7}', "must be a multiple of n_groups=2, got 7; nearest: 6 or 8"),
        ('{"layers": 3}', "layers must be a list of block indices, got 3"),
        ('{"layers": [0, 9]}', "layers must be ascending block indices below 8, got [0, 9]"),
        ('{"num_hidden_layers": 0}', "num_hidden_layers must be between 1 and 8, got 0"),
        ("{", "a shape must be a JSON object or a file of one"),
    ],
)
def test_a_shape_that_cannot_be_cut_is_one_line(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], shape: str, fault: str
) -> None:
    origin = checkpoint_hashes(tiny_checkpoint)
    with write_artifact(tmp_path / "scores", stage="score", inputs=origin, seed=0) as folder:
        scores = replace(random_scores(open_checkpoint(tiny_checkpoint).shape, seed=0), origin=origin)
        save_scores(scores, folder / "scores.safetensors")
    pruning = ["--scores", str(tmp_path / "scores"), "--shape", shape, "--output", str(tmp_path / "pruned")]
    assert fault in fail(capsys, "prune", str(tiny_checkpoint), *pruning)
    assert not (tmp_path / "pruned").exists()


def test_a_missing_file_of_the_last_stage_is_found_before_the_first(
    tmp_path: Path, recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "problems.jsonl").unlink()
    assert "a task must be a file that is there" in fail(
        capsys, "run", str(recipe_path), "--output", str(tmp_path / "run")
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("override", ["distill.tokens=[", "distill.tokens"])
def test_an_override_that_makes_no_sense_is_one_line(
    recipe_path: Path, capsys: pytest.CaptureFixture[str], override: str
) -> None:
    assert "an override" in fail(capsys, "run", str(recipe_path), "--set", override)


def test_a_utilization_above_one_is_one_line(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fail(capsys, "fit", str(tiny_checkpoint), "--utilization", "1.5")
    assert "utilization must be above 0 and at most 1, got 1.5" in line


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("device=gpu", "device must be one that torch knows, such as cpu or cuda:0, got 'gpu'"),
        ("search.hidden_size=[14, 23]", "search.hidden_size must hold sizes up to the teacher's 22, got [14, 23]"),
        ("search.num_hidden_layers=[9]", "search.num_hidden_layers must hold sizes up to the teacher's 8, got [9]"),
        ("distill.tokens=31", "distill.tokens must fill one batch of 2 x 16 = 32 tokens, got 31"),
    ],
)
def test_a_fault_of_a_late_stage_is_found_before_the_first(
    tmp_path: Path, recipe_path: Path, capsys: pytest.CaptureFixture[str], override: str, fault: str
) -> None:
    line = fail(capsys, "run", str(recipe_path), "--output", str(tmp_path / "run"), "--set", override)
    assert fault in line
    assert not (tmp_path / "run").exists()


def test_an_output_that_cannot_be_a_folder_is_one_line(
    tmp_path: Path, recipe_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["run", str(recipe_path), "--output", str(tmp_path / "file" / "run")]) == 1
    printed = capsys.readouterr().err
    assert "Not a directory" in printed
    assert "Traceback" not in printed


def score(checkpoint: Path, text: Path, output: Path, *more: str) -> list[str]:
    calibration = ["--data", str(text), "--samples", "3", "--seq-len", "16"]
    return ["score", str(checkpoint), *calibration, "--output", str(output), *more]


def test_finished_scores_are_taken_again_and_stale_ones_refused_with_what_differs(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, output = tmp_path / "text.txt", tmp_path / "scores"
    text.write_text("some words to calibrate on\n" * 40)
    assert main(score(tiny_checkpoint, text, output)) == 0
    written = (output / "scores.safetensors").stat().st_mtime_ns
    assert main(score(tiny_checkpoint, text, output, "--batch-size", "1", "--layerwise")) == 0
    assert (output / "scores.safetensors").stat().st_mtime_ns == written
    capsys.readouterr()
    line = fail(capsys, *score(tiny_checkpoint, text, output, "--seed", "1"))
    assert line.endswith("of other inputs: seed was 0 and is 1")
    line = fail(capsys, *score(tiny_checkpoint, text, output, "--set", "width.mamba=activation"))
    assert line.endswith("settings.width.mamba was flap and is activation")
    text.write_text("other words to calibrate on\n" * 40)
    assert "data was" in fail(capsys, *score(tiny_checkpoint, text, output))


def test_scoring_by_logits_says_which_blocks_go(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("some words to calibrate on\n" * 40)
    depth = ["--set", "depth.scorer=logit_mse", "--set", "depth.remove=2", "--set", "depth.keep_attention=1", "--json"]
    assert main(score(tiny_checkpoint, text, tmp_path / "scores", "--set", "packed=false", *depth)) == 0
    blocks = json.loads(capsys.readouterr().out)["blocks"]
    removed = sorted((block["removed"], block["kind"]) for block in blocks if block["removed"])
    assert [number for number, _ in removed] == [1, 2]
    assert sum(kind == "*" for _, kind in removed) == 1
    pictures = {path.name for path in (tmp_path / "scores").glob("*.png")}
    assert pictures == {
        "depth.png",
        "hidden_size.png",
        "intermediate_size.png",
        "mamba_head_dim.png",
        "mamba_num_heads.png",
        "num_attention_heads.png",
    }


@pytest.mark.parametrize(
    ("setting", "fault"),
    [
        ("depth.scorer=logit_mean", "depth.scorer: input should be"),
        ("dpth.scorer=logit_mse", "unknown key dpth; did you mean depth?"),
        ("width.mamba=energy", "width.mamba: input should be 'activation', 'flap' or 'output_energy', got 'energy'"),
        ("depth.remove=2", "score.depth.remove is for a greedy search by logits"),
        ("depth.protected=[1]", "score.depth.keep_attention and protected are for a greedy search"),
    ],
)
def test_a_setting_of_scoring_that_makes_no_sense_is_one_line(
    tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str], setting: str, fault: str
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("some words to calibrate on\n" * 40)
    assert fault in fail(capsys, *score(tiny_checkpoint, text, tmp_path / "scores", "--set", setting))
