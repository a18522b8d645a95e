"""Waves of requests in vLLM, as a program of vLLM's own Python environment: `python vllm_program.py ANSWERS SETTINGS`.

Imports nothing of minitron, which that environment need not have. SETTINGS is a JSON object with the checkpoint's
`model`, `max_model_len`, `max_num_seqs`, `memory_share`, `enforce_eager`, `prefix_caching`, and for `cpu` and `cuda` a
`dtype` and `cache_bytes`. Each line of stdin is a wave: a JSON object of `prompts` (lists of token ids) and
`output_tokens`. The file descriptor ANSWERS gets a line when the engine has started and one for every wave, as
`worker.py` reads them.
"""

import json
import os
import sys
import time
from typing import Any

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
os.environ |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would take the place of what is asked for
answers = os.fdopen(int(sys.argv[1]), "w")

import torch  # noqa: E402
import vllm  # noqa: E402
from vllm import LLM, SamplingParams  # noqa: E402
from vllm.sampling_params import RequestOutputKind  # noqa: E402


def tell(**values: Any) -> None:
    """One line of answer."""
    print(json.dumps(values), file=answers, flush=True)


def run_wave(engine: Any, prompts: list[list[int]], output_tokens: int) -> dict[str, Any]:
    """Sends all prompts at once; seconds from then to the first and the last token of each."""
    sampling = SamplingParams(
        temperature=0, max_tokens=output_tokens, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA
    )
    first_s: dict[str, float] = {}
    last_s: dict[str, float] = {}
    tokens = 0
    started = time.perf_counter()
    for number, prompt in enumerate(prompts):
        engine.add_request(str(number), {"prompt_token_ids": prompt}, sampling)
    while engine.has_unfinished_requests():
        for output in engine.step():
            now = time.perf_counter() - started
            tokens += len(output.outputs[0].token_ids)
            first_s.setdefault(output.request_id, now)
            last_s[output.request_id] = now
    names = [str(number) for number in range(len(prompts))]
    return {
        "first_s": [first_s[name] for name in names],
        "last_s": [last_s[name] for name in names],
        "output_tokens": tokens,
    }


def resident_bytes(field: str) -> int:
    """Memory of this process as Linux counts it: VmRSS now, VmHWM at most."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{field}:"))


def main() -> None:
    """Starts the engine and runs a wave for each line of stdin."""
    settings = json.loads(sys.argv[2])
    on_gpu = torch.cuda.is_available()
    platform = "cuda" if on_gpu else "cpu"
    before = 0 if on_gpu else resident_bytes("VmRSS")
    llm = LLM(
        settings["model"],
        dtype=settings["dtype"][platform],
        enforce_eager=settings["enforce_eager"],
        max_model_len=settings["max_model_len"],
        max_num_seqs=settings["max_num_seqs"],
        kv_cache_memory_bytes=settings["cache_bytes"][platform],
        gpu_memory_utilization=settings["memory_share"],
        mamba_ssm_cache_dtype="float32",
        enable_prefix_caching=settings["prefix_caching"],
        skip_tokenizer_init=True,
    )
    device = torch.cuda.get_device_name() if on_gpu else "cpu"
    tell(engine=f"vLLM {vllm.__version__}", device=device, threads=torch.get_num_threads())
    for line in sys.stdin:
        wave = json.loads(line)
        found = run_wave(llm.llm_engine, wave["prompts"], wave["output_tokens"])
        peak = torch.cuda.max_memory_reserved() if on_gpu else resident_bytes("VmHWM") - before
        tell(**found, peak_bytes=peak)
    os._exit(0)  # the engine's threads would keep the process alive


if __name__ == "__main__":
    main()
