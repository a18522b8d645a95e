"""Generation throughput of a model at fixed lengths."""

import statistics
import time

import torch
from transformers import PreTrainedModel


@torch.no_grad()
def tokens_per_second(
    model: PreTrainedModel, *, batch_size: int, prompt_tokens: int, new_tokens: int, repetitions: int = 3
) -> float:
    """Median generated tokens a second over repetitions, prefill included, after one warm-up.

    The prompt is arbitrary token ids and generation never stops early: speed does not depend on the text.
    """
    ids_BT = torch.arange(batch_size * prompt_tokens, device=model.device).reshape(batch_size, prompt_tokens)
    ids_BT = ids_BT % model.config.vocab_size
    rates = []
    for _ in range(repetitions + 1):
        started = time.perf_counter()
        model.generate(
            ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
        rates.append(batch_size * new_tokens / (time.perf_counter() - started))
    return statistics.median(rates[1:])
