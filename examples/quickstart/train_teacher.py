"""Trains the quickstart's teacher and its tokenizer from nothing, on two CPU cores.

    python examples/quickstart/make_data.py --output build/quickstart
    python examples/quickstart/train_teacher.py --data build/quickstart --output examples/quickstart/teacher

The result is an ordinary `nemotron_h` checkpoint saved by transformers in bf16. The seed fixes the initial weights,
the blend and its order; the standard library of the running Python is the text, so another Python version gives a
slightly different teacher.

The bundled one was trained with seed 0 on Python 3.11.7 and torch 2.13.0: 11.3 million tokens in 39 minutes on two
cores that were shared with other work (the first 2,000 of 5,500 steps, hardly disturbed, took 12), mean loss of the
last 100 steps 1.444. It answers 100% of 200 unseen problems exactly by greedy generation.
"""

import argparse
import copy
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional as F
from transformers import NemotronHConfig, NemotronHForCausalLM, PreTrainedTokenizerFast

from minitron.data.documents import read_documents
from minitron.data.sequences import blend_sources
from minitron.data.sources import TextSource
from minitron.runtime.building import set_time_step_limit

VOCAB_SIZE = 1024
SEQ_LEN = 256
BATCH_SIZE = 8
STEPS = 5500
PEAK_LR = 3e-3
WARMUP_STEPS = 100
TEXT_WEIGHT, PROBLEMS_WEIGHT = 0.65, 0.35

CONFIG = {
    "vocab_size": VOCAB_SIZE,
    "hybrid_override_pattern": "M-M*-M-M*-M-",
    "hidden_size": 160,
    "intermediate_size": 640,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "mamba_num_heads": 12,
    "mamba_head_dim": 24,
    "n_groups": 2,
    "ssm_state_size": 16,
    "conv_kernel": 4,
    "chunk_size": 32,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with single digits, `<s>` before each text, and the two thinking marks as tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    marks = [AddedToken(mark, special=False, normalized=False) for mark in ("<think>", "</think>")]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<pad>", "<s>", "</s>", *marks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="left",
        model_max_length=CONFIG["max_position_embeddings"],
    )


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then cosine to a tenth of the peak."""
    if step < WARMUP_STEPS:
        return PEAK_LR * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return PEAK_LR * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def train(
    sources: Sequence[TextSource],
    output: Path,
    *,
    seed: int,
    config: Mapping[str, object] = MappingProxyType(CONFIG),
    steps: int = STEPS,
) -> None:
    """Trains and saves a teacher, and a tokenizer of the first source's text; prints the mean loss as it goes."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(read_documents(sources[0].path))
    sequences_NT = torch.from_numpy(
        blend_sources(sources, tokenizer, seq_len=SEQ_LEN, num_sequences=steps * BATCH_SIZE, seed=seed)
    )
    model = NemotronHForCausalLM(NemotronHConfig(**config))
    set_time_step_limit(model)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters, {sequences_NT.numel():,} tokens", flush=True)
    started, recent = time.monotonic(), []
    model.train()
    for step in range(steps):
        ids_BT = sequences_NT[step * BATCH_SIZE : (step + 1) * BATCH_SIZE].long()
        logits_BTV = model(ids_BT, use_cache=False).logits
        loss = F.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        optimizer.step()
        optimizer.zero_grad()
        recent.append(loss.item())
        if (step + 1) % 100 == 0:
            elapsed = time.monotonic() - started
            print(f"step {step + 1}/{steps}  loss {sum(recent) / len(recent):.4f}  {elapsed:.0f} s", flush=True)
            recent.clear()
        if (step + 1) % 1000 == 0 or step + 1 == steps:
            output.mkdir(parents=True, exist_ok=True)
            tokenizer.save_pretrained(output)
            copy.deepcopy(model).to(torch.bfloat16).save_pretrained(output)  # training itself stays in fp32


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder written by make_data.py")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sources = [
        TextSource(path=str(args.data / "text-train.jsonl"), weight=TEXT_WEIGHT),
        TextSource(path=str(args.data / "problems-train.jsonl"), weight=PROBLEMS_WEIGHT),
    ]
    train(sources, args.output, seed=args.seed)


if __name__ == "__main__":
    main()
