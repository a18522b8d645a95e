"""No code beside a checkpoint runs, and no network is asked where folders are given."""

import json
from pathlib import Path

import pytest

from minitron.errors import MinitronError
from minitron.models.config import read_config, shape_from_config
from minitron.runtime.building import build_config
from minitron.runtime.loading import load_model, load_tokenizer
from tests.support.models import make_dense_shape, write_tiny_checkpoint
from tests.support.recipes import write_tiny_recipe
from tests.support.torch_free import run_commands

PLANTED = """
from pathlib import Path
Path(__file__).with_name("it ran").touch()
raise SystemExit("it ran")
"""
CLASSES = {
    "AutoConfig": "planted.Config",
    "AutoModelForCausalLM": "planted.Model",
    "AutoTokenizer": ["planted.Tokenizer", "planted.Tokenizer"],
}
# Sockets of whatever kind cannot be made; the hub is not said to be offline.
NO_NETWORK = """
import os, socket, sys
os.environ.pop("HF_HUB_OFFLINE", None)
def refuse(*args, **kwargs):
    print("NETWORK", args, file=sys.__stderr__)
    raise AssertionError("a socket was asked for")
socket.socket.__init__ = refuse
socket.create_connection = refuse
socket.getaddrinfo = refuse
"""


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    folder = write_tiny_checkpoint(tmp_path / "teacher", shape=make_dense_shape("llama"))
    (folder / "planted.py").write_text(PLANTED)
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": CLASSES}))
    return folder


def did_run(folder: Path) -> bool:
    return any(folder.parent.rglob("it ran"))


def test_classes_that_a_configuration_maps_to_code_beside_it_are_not_taken(planted: Path) -> None:
    assert type(load_model(planted)).__module__.startswith("transformers.")
    assert type(load_tokenizer(planted)).__module__.startswith("transformers.")
    assert not did_run(planted)


def test_a_tokenizer_that_only_code_beside_it_knows_is_refused_without_a_question(
    planted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = planted / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "PlantedTokenizer"}))
    (planted / "config.json").write_text(json.dumps({"model_type": "planted", "auto_map": CLASSES}))

    def answer(question: str = "") -> str:
        raise AssertionError(f"asked on the terminal: {question}")

    monkeypatch.setattr("builtins.input", answer)
    with pytest.raises(MinitronError, match="a checkpoint must bring its tokenizer"):
        load_tokenizer(planted)
    assert not did_run(planted)


def test_code_that_a_recipe_s_teacher_brings_is_not_run_by_any_command(tmp_path: Path) -> None:
    recipe = write_tiny_recipe(tmp_path)
    folder = tmp_path / "teacher"
    (folder / "planted.py").write_text(PLANTED)
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": CLASSES}))
    commands = [
        ["fit", "teacher"],
        ["check", "teacher", "--reader", "transformers"],
        ["score", "teacher", "--data", "text.txt", "--output", "scores", "--samples", "2", "--seq-len", "16"],
        ["eval", "teacher", "--data", "heldout.txt", "--sequences", "2", "--seq-len", "16"],
        ["run", recipe.name, "--to", "prune", "--set", "score.samples=2"],
        ["plan", "runs/tiny/prune"],
        ["status", "runs/tiny"],
    ]
    ended = run_commands(commands, tmp_path, before=NO_NETWORK)
    for command, one in zip(commands, ended, strict=True):
        assert (command[0], one.code, one.err[-500:] if one.code else "") == (command[0], 0, "")
        assert "NETWORK" not in one.err
    assert not did_run(folder)


def test_the_ban_on_the_network_bans(tmp_path: Path) -> None:
    (ended,) = run_commands([["fit", "nobody/nothing"]], tmp_path, before=NO_NETWORK)
    assert ended.code != 0


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_configuration_does_not_choose_kernels_of_the_hub(planted: Path, key: str) -> None:
    path = planted / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: "stranger/kernel"}))
    config = read_config(planted)
    built = build_config(config, shape_from_config(config))
    assert "stranger" not in json.dumps(built.to_dict(), default=str)
    assert built._attn_implementation != "stranger/kernel"
    assert load_model(planted).config._attn_implementation in ("eager", "sdpa")


def test_files_that_tokenizer_settings_name_elsewhere_are_not_read(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "teacher")
    expected = load_tokenizer(folder).get_vocab()
    other = json.loads((folder / "tokenizer.json").read_text())
    other["model"]["vocab"] = {token: 300 - number for token, number in other["model"]["vocab"].items()}
    (tmp_path / "tokenizer.json").write_text(json.dumps(other))
    path = folder / "tokenizer_config.json"
    elsewhere = {"tokenizer_file": "../tokenizer.json", "vocab_file": str(tmp_path / "tokenizer.json")}
    path.write_text(json.dumps(json.loads(path.read_text()) | elsewhere))
    assert load_tokenizer(folder).get_vocab() == expected
