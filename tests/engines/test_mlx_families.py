"""mlx-lm on CPU against transformers: small teachers of published families, and students cut along every axis."""

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.checkpoints.headers import SINGLE_FILE
from minitron.integrations.readers.check import check
from minitron.runtime.loading import load_model
from tests.engines.reference import NEW_TOKENS, PROMPTS, TOLERANCE, ask_model
from tests.engines.teachers import TEACHERS, write_teacher_and_student

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mlx_lm") is None, reason="mlx-lm is not installed, `make test-engines` installs it"
)

# mlx-lm reads these texts' layers inside models of images only, and experts as one stack.
NESTED = {"qwen3_5_text": "qwen3_5", "qwen3_5_moe_text": "qwen3_5_moe"}
READ = ["qwen2", "smollm3", "granitemoehybrid", "qwen3_moe", *NESTED]
# What mlx-lm misunderstands of the teachers, without a word: that is why `check` refuses it.
MISREAD = {"mistral": "num_hidden_layers", "gemma3_text": "sliding_window_pattern"}


def ask_mlx(folder: Path) -> list[Mapping[str, list[float]]]:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("mlx_tokens.py")), str(folder)],
        input=json.dumps({"prompts": PROMPTS, "new_tokens": NEW_TOKENS}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[Mapping[str, list[float]]] = json.loads(done.stdout)
    return answers


def as_mlx_reads_it(folder: Path, name: str) -> Path:
    """The same weights under the name that mlx-lm knows, experts in stacks."""
    if name not in NESTED:
        return folder
    copy = folder.with_name(f"{folder.name} for mlx")
    shutil.copytree(folder, copy)
    config = json.loads((folder / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "model_type": NESTED[name]}))
    state = load_file(folder / SINGLE_FILE)
    for layer in range(config["num_hidden_layers"]):
        experts = f"model.layers.{layer}.mlp.experts"
        if f"{experts}.0.gate_proj.weight" in state:
            gate, up, down = (
                torch.stack([state.pop(f"{experts}.{each}.{x}_proj.weight") for each in range(config["num_experts"])])
                for x in ("gate", "up", "down")
            )
            state |= {f"{experts}.gate_up_proj": torch.cat([gate, up], dim=1), f"{experts}.down_proj": down}
    save_file(state, copy / SINGLE_FILE, metadata={"format": "pt"})
    return copy


def difference(folder: Path, name: str) -> tuple[bool, float]:
    """Whether all greedy tokens are alike, and how far log-probabilities at the ends of the prompts are apart."""
    model, alike, apart = load_model(folder), [], []
    for prompt, found in zip(PROMPTS, ask_mlx(as_mlx_reads_it(folder, name)), strict=True):
        alike.append(found["tokens"] == ask_model(model, prompt).tokens)
        with torch.no_grad():
            logits_V = model(torch.tensor([prompt]), use_cache=False).logits[0, -1].float()
        apart.append(float((torch.tensor(found["logits"]).log_softmax(-1) - logits_V.log_softmax(-1)).abs().max()))
    return all(alike), max(apart)


@pytest.mark.parametrize("name", READ)
def test_teacher_and_student_give_the_tokens_and_probabilities_of_transformers(tmp_path: Path, name: str) -> None:
    for what, folder in write_teacher_and_student(name, tmp_path).items():
        alike, apart = difference(folder, name)
        assert (what, alike, apart < TOLERANCE) == (what, True, True), apart
        written = open_checkpoint(folder)
        refused = [refusal.key for refusal in check({**written.config}, written.shape, "mlx")]
        # The small state does not divide into what a GPU of Apple's takes at a time.
        state = ["ssm_state_size"] if name == "granitemoehybrid" else []
        assert refused == (["model_type"] if name in NESTED else state)


@pytest.mark.parametrize("name", MISREAD)
def test_what_check_refuses_mlx_lm_computes_otherwise(tmp_path: Path, name: str) -> None:
    folder = write_teacher_and_student(name, tmp_path)["teacher"]
    assert difference(folder, name)[1] > 100 * TOLERANCE
    written = open_checkpoint(folder)
    assert MISREAD[name] in [refusal.key for refusal in check(written.config, written.shape, "mlx")]


def test_every_family_is_read_or_refused() -> None:
    assert {*READ, *MISREAD, "bamba"} == set(TEACHERS)  # of bamba mlx-lm has no model
