"""Every fault in what was given is one line and exit 2, told before torch is loaded."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import pre_tokenizers

from tests.support.gguf_files import make_mergeable_tokenizer, write_exportable
from tests.support.models import make_tiny_shape, write_tiny_checkpoint
from tests.support.recipes import write_tiny_recipe
from tests.support.torch_free import Ended, run_commands

SCORE = ("score", "teacher", "--data", "text.txt", "--output", "new")
PRUNE = ("prune", "teacher", "--scores", "scores", "--output", "new", "--shape")
QUANTIZE = ("quantize", "teacher", "--data", "text.txt", "--output", "new", "--format")
EXPORT = ("export", "exportable", "--format", "gguf", "--output")
EVAL = ("eval", "teacher", "--data", "text.txt")

# Command -> what its line says.
FAULTS: dict[tuple[str, ...], str] = {
    ("run", "nowhere.yaml"): "recipe not found: nowhere.yaml",
    ("run", "latin.yaml"): "latin.yaml: a recipe must be YAML: 'utf-8' codec can't decode",
    ("run", "date.yaml"): "date.yaml: a recipe must be YAML: month must be in 1..12",
    ("run", "recipe.yaml", "--set", "distill.tokns=5"): "unknown key distill.tokns; did you mean tokens?",
    ("run", "recipe.yaml", "--set", "distill.tokens=["): "an override's value must be YAML",
    ("run", "recipe.yaml", "--set", "name=2020-99-99"): "an override's value must be YAML",
    ("run", "recipe.yaml", "--set", "teacher=nowhere"): "checkpoint folder not found",
    ("run", "recipe.yaml", "--set", "teacher=empty"): "a checkpoint must be a folder with a config.json",
    ("run", "recipe.yaml", "--set", "teacher=bare"): "model.safetensors",
    ("run", "recipe.yaml", "--set", "score.data=[{path: nowhere.txt}]"): "nowhere.txt is not",
    ("run", "recipe.yaml", "--set", "score.width.mamba=zzz"): "score.width.mamba: input should be 'activation'",
    ("run", "recipe.yaml", "--set", "seed=-1"): "seed: input should be greater than or equal to 0, got -1",
    ("run", "recipe.yaml", "--set", "score.data=[{path: text.txt, weight: .inf}]"): "input should be a finite number",
    ("run", "recipe.yaml", "--set", "device=gpu"): "device must be one that torch knows",
    ("run", "recipe.yaml", "--dry-run", "--set", "device=gpu"): "device must be one that torch knows",
    ("run", "recipe.yaml", "--to", "destill"): "a stage must be one of score, search",
    ("run", "recipe.yaml", "--from", "destill"): "a stage must be one of score, search",
    ("run", "recipe.yaml", "--from", "report", "--to", "score"): "--from must not come after --to",
    ("search", "recipe.yaml", "--from", "distill"): "--from must not come after --to",
    ("distill", "nowhere.yaml", "--cache-teacher"): "recipe not found",
    ("fit", "nowhere"): "checkpoint folder not found: nowhere; a name on the Hugging Face hub is owner/name",
    ("fit", "teacher", "--gpu", "zzz"): "gpu must be one of a10g",
    ("fit", "teacher", "--utilization", "nan"): "utilization must be above 0 and at most 1, got nan",
    ("check", "nowhere"): "checkpoint folder not found: nowhere",
    ("check", "teacher", "--reader", "vlm"): "a reader must be one of vllm, sglang",
    (
        "check",
        "teacher",
        "--reader",
        "vllm",
        "--tensor-parallel",
        "2",
    ): "vllm 0.33.0: num_key_value_heads must be a mul",
    ("check", "bare", "--reader", "transformers"): "model.safetensors",
    ("run", "recipe.yaml", "--set", "budget.readers=[vlm]"): "budget.readers.0: input should be 'vllm', 'sglang'",
    (
        *("run", "recipe.yaml", "--set", "budget.readers=[vllm]", "--set", "budget.tensor_parallel=2"),
    ): "is refused by vllm, for which num_key_value_heads must be a multiple of tensor_parallel=2, or divide it, got 3",
    ("score", "nowhere", *SCORE[2:]): "checkpoint folder not found: nowhere",
    ("score", "teacher", "--data", "nowhere.txt", "--output", "new"): "nowhere.txt is not",
    ("score", "teacher", "--data", "no such name", "--output", "new"): "a dataset's owner/name, got no such name",
    (*SCORE[:-1], "scores"): "the output folder must be new or empty",
    (*SCORE, "--set", "width.mamba=zzz"): "width.mamba: input should be 'activation'",
    (*SCORE, "--set", "widht.mamba=flap"): "unknown key widht",
    (*SCORE, "--device", "gpu"): "device must be one that torch knows",
    (*PRUNE, "{"): "a shape must be a JSON object or a file of one",
    (*PRUNE, "latin.yaml"): "a shape must be a JSON object or a file of one",
    (*PRUNE, '{"layers": 3}'): "a whole folder of scores is expected at scores",
    (*QUANTIZE, "zzz"): "a format must be one of fp8",
    ("quantize", "teacher", "--data", "nowhere.txt", "--output", "new", "--format", "fp8"): "nowhere.txt is not",
    ("quantize", "teacher", "--data", "text.txt", "--output", "scores", "--format", "fp8"): "must be new or empty",
    ("merge", "teacher", "--output", "new"): "two checkpoints or more are merged, got 1",
    ("merge", "teacher", "nowhere", "--output", "new"): "checkpoint folder not found: nowhere",
    ("merge", "teacher", "teacher", "--output", "scores"): "the output folder must be new or empty",
    ("merge", "teacher", "teacher", "--output", "new", "--weights", "1", "1"): "weights must sum to 1",
    ("merge", "teacher", "teacher", "--output", "new", "--weights", "nan", "1"): "weights must be finite numbers",
    ("export", "exportable", "--format", "onnx", "--output", "new"): "a format must be one of gguf, got 'onnx'",
    (*EXPORT, "new", "--dtype", "fp8"): "a dtype must be one of f32, f16, bf16, q8_0, got 'fp8'",
    (*EXPORT, "new", "--pre-tokenizer", ""): "a pre-tokenizer must have a name",
    (*EXPORT, "text.txt"): "the output must be a new file, text.txt exists",
    (*EXPORT, "text.txt/new"): "text.txt is a file",
    ("export", "nowhere", *EXPORT[2:], "new"): "checkpoint folder not found: nowhere",
    ("export", "bare", *EXPORT[2:], "new"): "model.safetensors",
    ("export", "teacher", *EXPORT[2:], "new"): "must have merges for llama.cpp, that of teacher has none",
    ("export", "quantized", *EXPORT[2:], "new"): "the weights must not be quantized here, those of quantized are fp8",
    ("export", "sentencepiece", *EXPORT[2:], "new"): "must be a byte-level BPE to be exported, that of sentencepiece",
    ("export", "strange", *EXPORT[2:], "new"): "name the one to write with --pre-tokenizer NAME",
    ("eval", "nowhere", "--data", "text.txt"): "checkpoint folder not found: nowhere",
    ("eval", "teacher", "--data", "nowhere.txt"): "nowhere.txt is not",
    ("eval", "teacher", "--data", "texts"): "got texts, which is not there; did you mean text.txt?",
    ("eval", "teacher", "--data", "txet.txt"): "a file that is there, txet.txt is not; did you mean text.txt?",
    ("eval", "teacher", "--data", "gone/*.csv"): "a pattern must match a file, gone/*.csv matches none",
    ("eval", "teacher", "--data", "empty"): "a folder of text must hold",
    ("eval", "teacher", "--data", "latin.jsonl"): "latin.jsonl is not: line 1 holds 0xe9 at byte 13 of the file",
    ("eval", "teacher", "--data", "body.jsonl"): "body.jsonl:1 has the fields body, id; name the one to read by field",
    ("eval", "teacher", "--data", "both.jsonl"): "both.jsonl:1 can be text or messages by its fields",
    ("eval", "teacher", "--data", "chat.jsonl"): "the tokenizer of teacher has none for chat.jsonl; set chat_template",
    (
        *EVAL,
        "--layerwise",
        "--task",
        "added.jsonl",
    ): "a task and speed need whole models: set task: null, or layerwise: false",
    (
        *("run", "recipe.yaml", "--set", "evaluate.layerwise=true"),
    ): "evaluate: layerwise has one block in memory at a time, a task and speed need whole models: set task: null and",
    (
        "eval",
        "teacher",
        "--data",
        "{path: text.txt, loss: answers}",
    ): "answers needs conversations, text.txt holds text",
    ("eval", "teacher", "--data", "{path: text.txt, los: all}"): "unknown key data.0.los; did you mean loss?",
    ("eval", "teacher", "--data", "{path: chat.jsonl, chat_template: x.jinja}"): "a file that is there, x.jinja is not",
    ("score", "teacher", "--data", "chat.jsonl", "--output", "new"): "conversations need a chat template",
    ("run", "recipe.yaml", "--set", "distill.data=[{path: chat.jsonl}]"): "conversations need a chat template",
    ("run", "recipe.yaml", "--set", "distill.data=[{path: text.txt, loss: none}]"): "distill.data.0.loss: input should",
    (*EVAL, "--teacher", "nowhere"): "checkpoint folder not found: nowhere",
    (*EVAL, "--task", "nowhere.jsonl"): "a task must be a file that is there",
    (*EVAL, "--device", "cuda:x"): "device must be one that torch knows",
    (*EVAL, "--teacher", "other-words"): "two models meet only where an id is one token in both, 8 is",
    ("merge", "teacher", "other-words", "--output", "new"): "two models meet only where an id is one token in both",
    ("eval", "added", "--data", "added.txt"): "the text holds '<|im_start|>', whose id is 271; resize the model",
    ("eval", "added", "--data", "text.txt", "--data", "added.txt"): "the text holds '<|im_start|>'",
    ("eval", "added", "--data", "{path: turns.jsonl, chat_template: chat.jinja}"): "the text holds '<|im_start|>'",
    (*EVAL[:1], "added", *EVAL[2:], "--task", "added.jsonl"): "the text holds '<|im_start|>'",
    ("score", "added", "--data", "added.txt", "--output", "new"): "the text holds '<|im_start|>'",
    (
        "quantize",
        "added",
        "--data",
        "added.txt",
        "--output",
        "new",
        "--format",
        "w8a8",
    ): "the text holds '<|im_start|>'",
    (
        *("run", "recipe.yaml", "--set", "teacher=added", "--set", "distill.data=[{path: added.txt}]"),
    ): "the text holds '<|im_start|>'",
    (
        *("distill", "recipe.yaml", "--set", "teacher=added", "--set", "evaluate.task.path=added.jsonl"),
    ): "the text holds '<|im_start|>'",
    ("fit", "pickled"): "its pytorch_model*.bin is converted by: python -c",
    ("score", "pickled", *SCORE[2:]): "its pytorch_model*.bin is converted by: python -c",
    (
        "score",
        "gptq",
        *SCORE[2:],
    ): "those of gptq are quantized (gptq (4 bits)); give the checkpoint they were made from",
    ("bench", "gptq", "--engine", "vllm"): "those of gptq are of gptq (4 bits); `minitron fit` counts their bytes",
    ("fit", "nobody/nothing"): "neither a folder here nor whole in the hub's cache",
    ("score", "nobody/nothing@main", *SCORE[2:]): "neither a folder here nor whole in the hub's cache",
    ("plan", "nowhere"): "a plan must be a file or a folder that holds prune.plan",
}


def write_exports(folder: Path) -> None:
    """Checkpoints that can be exported, and some that cannot."""
    for name in ("exportable", "quantized", "sentencepiece", "strange"):
        write_exportable(folder / name, make_tiny_shape())
    steps = pre_tokenizers.Sequence([pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    for name, changed in (("sentencepiece", pre_tokenizers.Metaspace()), ("strange", steps)):
        make_mergeable_tokenizer(changed).save_pretrained(folder / name)
    path = folder / "quantized" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_algo": "FP8"}}))


def write_misfits(folder: Path) -> None:
    """Checkpoints whose tokenizers or files do not suit their models."""
    for name in ("other-words", "added", "pickled", "gptq"):
        write_tiny_checkpoint(folder / name)
    words = json.loads((folder / "other-words" / "tokenizer.json").read_text())
    words["model"]["vocab"]["a"], words["model"]["vocab"]["."] = 8, words["model"]["vocab"]["a"]
    (folder / "other-words" / "tokenizer.json").write_text(json.dumps(words))
    added = json.loads((folder / "added" / "tokenizer.json").read_text())
    token = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False) | {"special": True}
    added["added_tokens"].append({"id": 271, "content": "<|im_start|>", **token})
    (folder / "added" / "tokenizer.json").write_text(json.dumps(added))
    (folder / "added.txt").write_text("some text\n---\n<|im_start|>user")
    turn = {"prompt": "a", "completion": "b<|im_start|>"}
    (folder / "turns.jsonl").write_text(json.dumps(turn))
    (folder / "chat.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    (folder / "added.jsonl").write_text(json.dumps({"prompt": "<|im_start|>1+1=", "answer": "2"}))
    (folder / "pickled" / "model.safetensors").rename(folder / "pickled" / "pytorch_model.bin")
    config = json.loads((folder / "gptq" / "config.json").read_text())
    quantized = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (folder / "gptq" / "config.json").write_text(json.dumps(config | quantized))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    write_tiny_recipe(folder, make_tiny_shape(), {"hidden_size": [22, 14]})
    write_exports(folder)
    write_misfits(folder)
    (folder / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (folder / "latin.jsonl").write_bytes(b'{"text": "caf\xe9"}\n')
    (folder / "body.jsonl").write_text(json.dumps({"body": "a", "id": 1}))
    (folder / "both.jsonl").write_text(json.dumps({"text": "a", "messages": turns}))
    (folder / "chat.jsonl").write_text(json.dumps({"messages": turns}))
    (folder / "date.yaml").write_text("name: 2020-99-99\n")
    for name in ("empty", "bare", "scores"):
        (folder / name).mkdir()
    (folder / "bare" / "config.json").write_bytes((folder / "teacher" / "config.json").read_bytes())
    (folder / "scores" / "note.txt").write_text("not scores")
    return folder


@pytest.fixture(scope="module")
def ended_of(workplace: Path) -> Callable[[tuple[str, ...]], Ended]:
    """All commands run in one process, since a process takes longer to start than a fault to be found."""
    ended = dict(zip(FAULTS, run_commands(list(FAULTS), workplace), strict=True))
    return lambda command: ended[command]


@pytest.mark.parametrize("command", FAULTS, ids=" ".join)
def test_a_fault_is_one_line_before_torch_is_loaded(
    ended_of: Callable[[tuple[str, ...]], Ended], command: tuple[str, ...]
) -> None:
    ended = ended_of(command)
    assert ended.code == 2
    assert ended.err.startswith("minitron: ")
    assert FAULTS[command] in ended.err
    assert "Traceback" not in ended.err
    assert ended.err.count("\n") == 1
    assert ended.heavy == []


def test_no_fault_leaves_anything_behind(ended_of: Callable[[tuple[str, ...]], Ended], workplace: Path) -> None:
    ended_of(("run", "nowhere.yaml"))
    assert not (workplace / "new").exists()
    assert not (workplace / "runs").exists()
    assert [path.name for path in (workplace / "scores").iterdir()] == ["note.txt"]


def test_a_fault_takes_a_second_of_cpu(workplace: Path) -> None:
    """CPU time, since other processes may be running; loading torch alone takes several seconds of it."""
    (ended,) = run_commands([("run", "recipe.yaml", "--set", "teacher=nowhere")], workplace)
    assert ended.cpu_seconds < 2.5
