"""The `vllm serve` line that `minitron fit` prints, executed by vLLM on CPU: it starts and answers a chat over HTTP."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.cli.main import main
from minitron.runtime.loading import load_model, load_tokenizer
from minitron.units import GIB
from tests.engines.checkpoints import EVERYTHING, write_checkpoints
from tests.engines.run_vllm import NEEDS_VLLM, PYTHON

pytestmark = NEEDS_VLLM
NEW_TOKENS = 12
CACHE_GIB = 0.25
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
# Words of the line that vLLM's CPU build gives another meaning, with the number of values that follow each: there the
# share is one of the machine's whole memory, and the cache's size is an environment variable.
LEFT_OUT = {"--gpu-memory-utilization": 1}
# `vllm` of the CPU build's wheel does not start, vllm_command.py says why.
COMMAND = [str(PYTHON), str(Path(__file__).with_name("vllm_command.py"))]
# What a server of a test adds: where it listens, and no minutes of compilation.
ADDED = ("--host", "127.0.0.1", "--enforce-eager")
START_S = 240


def printed_line(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The words of the line, for the checkpoint's weights and a quarter of a GiB of cache, in fp32 as on CPU."""
    memory = open_checkpoint(checkpoint).weights_bytes / GIB + CACHE_GIB
    words = ["--accounting", "vllm", "--memory-gib", str(memory), "--utilization", "1", "--workspace-gib", "0"]
    words += ["--context", "256", "--kv", "fp32", "--conv", "fp32", "--block-size", "128", "--max-num-seqs", "4"]
    assert main(["fit", str(checkpoint), *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"]
    return shlex.split(found["serve"])


def without(words: list[str], left_out: Mapping[str, int]) -> list[str]:
    kept, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        if word in left_out:
            del rest[: left_out[word]]
        else:
            kept.append(word)
    return kept


@contextmanager
def served(words: list[str], log: Path) -> Iterator[str]:
    """The address of a server that answers; its whole process group ends with the test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    environment.pop("PYTHONPATH", None)
    with log.open("wb") as out:
        server = subprocess.Popen(
            [*COMMAND, *words[1:], *ADDED, "--port", str(port)],
            stdout=out,
            stderr=out,
            env=environment,
            cwd=log.parent,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + START_S
        while not answers(f"{address}/health"):
            assert server.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.5)
        yield address
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return int(response.status) == 200
    except OSError:
        return False


def ask(url: str, request: Mapping[str, Any] | None = None) -> Any:
    body = None if request is None else json.dumps(request).encode()
    asked = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=120) as response:
        return json.load(response)


def test_the_line_that_fit_prints_serves_a_chat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = write_checkpoints("nemotron_h", tmp_path / "written")[EVERYTHING]
    student = tmp_path / "student"
    shutil.copytree(cut, student)
    (student / "chat_template.jinja").write_text(TEMPLATE)
    line = printed_line(student, capsys)
    assert line[:2] == ["vllm", "serve"]
    assert set(LEFT_OUT) < set(line)
    context = int(line[line.index("--max-model-len") + 1])
    text = "Three plus four is"
    tokenizer, model = load_tokenizer(student), load_model(student)
    prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.no_grad():
        made = model.generate(prompt, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)
    expected = made[0, prompt.shape[1] :].tolist()
    with served(without(line, LEFT_OUT), tmp_path / "server.log") as address:
        (told,) = ask(f"{address}/v1/models")["data"]
        assert told["max_model_len"] == context
        request = {
            "model": told["id"],
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": NEW_TOKENS,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        answer = ask(f"{address}/v1/chat/completions", request)
    assert answer["prompt_token_ids"] == prompt[0].tolist()
    assert answer["choices"][0]["token_ids"] == expected
    with capsys.disabled():
        print(f"\n`{shlex.join(line[:2])} ...` served a chat: {len(expected)} tokens equal", flush=True)
