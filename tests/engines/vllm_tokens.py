"""Greedy tokens of vLLM on CPU, as a program: `python vllm_tokens.py < request > answer`, both in JSON.

The request holds `models` (checkpoint folders), `prompts` (lists of token ids, the same for each model) and
`new_tokens`. The answer has, for each model and prompt, the greedy `tokens` and the `logprobs` of every token of the
prompt but the first and of the new tokens; for a model that vLLM refuses its `error`. Weights and cache are fp32, so
that only the order of sums differs, unless the request names another `dtype`. With `kernels_in_torch` it takes what
`vllm_kernels` has in place of kernels that builds for CPUs lack. `cpu` is the kind of CPU that it acts as, of
`vllm_cpu`; `layers` names a file a model for what its quantized layers read and gave.
"""

import gc
import json
import os
import sys
from contextlib import nullcontext
from typing import Any

os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
answers_to = os.dup(1)
os.dup2(2, 1)  # what vLLM prints is not the answer
request = json.load(sys.stdin)

from vllm_cpu import act_as  # noqa: E402

if "cpu" in request:
    act_as(request["cpu"])

from vllm import LLM, SamplingParams  # noqa: E402
from vllm.distributed.parallel_state import cleanup_dist_env_and_memory  # noqa: E402
from vllm_kernels import put_all_in_torch, put_fp8_rounding_in_torch  # noqa: E402
from vllm_layers import recorded_layers  # noqa: E402


def ask(folder: str, layers: str | None) -> list[dict[str, Any]]:
    """Loads a model, reads the prompts in one batch and decodes them."""
    engine = LLM(
        folder,
        dtype=request.get("dtype", "float32"),
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=4,
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
    )
    sampling = SamplingParams(
        temperature=0,
        max_tokens=request["new_tokens"],
        ignore_eos=True,
        prompt_logprobs=0,
        logprobs=0,
        detokenize=False,
    )
    prompts = [{"prompt_token_ids": prompt} for prompt in request["prompts"]]
    with recorded_layers(engine, layers) if layers else nullcontext():
        return [answer(each) for each in engine.generate(prompts, sampling, use_tqdm=False)]


def answer(output: Any) -> dict[str, Any]:
    """Tokens and log-probabilities of one prompt."""
    (made,) = output.outputs
    given = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
    new = zip(made.token_ids, made.logprobs, strict=True)
    return {
        "tokens": list(made.token_ids),
        "logprobs": [choices[token].logprob for token, choices in (*given, *new)],
    }


if __name__ == "__main__":
    if request.get("kernels_in_torch"):
        put_all_in_torch()
    if request.get("fp8_rounding_in_torch"):
        put_fp8_rounding_in_torch()
    answers: list[Any] = []
    for model, layers in zip(request["models"], request.get("layers") or [None] * len(request["models"]), strict=True):
        try:
            answers.append(ask(model, layers))
        except Exception as error:
            answers.append({"error": f"{type(error).__name__}: {error}"})
        # Only now does no traceback hold an engine that failed: later its end would take the next one's groups with it.
        gc.collect()
        cleanup_dist_env_and_memory()
    with os.fdopen(answers_to, "w") as out:
        json.dump(answers, out)
    os._exit(0)  # the engine's threads would keep the process alive
