"""One wave of requests through transformers' `generate`, as one batch."""

import time
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, StoppingCriteria

from minitron.evaluate.speed.wave import Wave


@torch.no_grad()
def run_wave(model: PreTrainedModel, prompts: Sequence[Sequence[int]], output_tokens: int) -> Wave:
    """Generates greedily for prompts of one length.

    Args:
        model: The model, on any device.
        prompts: Token ids, as many of each.
        output_tokens: Tokens generated for each, whatever they are.
    """
    ids_BT = torch.tensor(prompts, device=model.device)
    clock = _Clock(model.device)
    model.generate(
        ids_BT,
        attention_mask=torch.ones_like(ids_BT),
        min_new_tokens=output_tokens,
        max_new_tokens=output_tokens,
        do_sample=False,
        pad_token_id=0,
        stopping_criteria=[clock],
    )
    first, last = clock.seconds[0], clock.seconds[-1]
    batch = len(prompts)
    return Wave(first_s=(first,) * batch, last_s=(last,) * batch, output_tokens=batch * len(clock.seconds))


class _Clock(StoppingCriteria):  # type: ignore[misc]
    """Stops nothing; notes the seconds at which each token was there."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started = time.perf_counter()
        self.seconds: list[float] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: object) -> torch.BoolTensor:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds.append(time.perf_counter() - self._started)
        never = torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        return never  # type: ignore[return-value]
