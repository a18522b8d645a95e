"""Greedy tokens from mlx-lm on CPU, as a program: `python mlx_tokens.py FOLDER < request > answer`, both in JSON.

The request holds `prompts` (lists of token ids) and `new_tokens`; the answer has, for each prompt, its greedy `tokens`
and the `logits` at its last position. Weights are widened to fp32, so that only the order of sums differs.
"""

import json
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model


def greedy(model: Any, prompt: list[int], new_tokens: int) -> dict[str, Any]:
    """Reads the prompt at once, then decodes token by token from the engine's own cache."""
    cache = make_prompt_cache(model)
    logits = model(mx.array([prompt]), cache=cache)[0, -1]
    at_prompt, tokens = logits.tolist(), []
    for _ in range(new_tokens):
        tokens.append(int(mx.argmax(logits).item()))
        logits = model(mx.array([tokens[-1:]]), cache=cache)[0, -1]
    return {"tokens": tokens, "logits": at_prompt}


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)
    request = json.load(sys.stdin)
    loaded, _ = load_model(Path(sys.argv[1]))
    loaded.set_dtype(mx.float32)
    json.dump([greedy(loaded, prompt, request["new_tokens"]) for prompt in request["prompts"]], sys.stdout)
