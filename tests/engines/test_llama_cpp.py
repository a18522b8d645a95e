"""Exported files in stock llama.cpp, which reads them by itself, against plain transformers."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import minitron
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.integrations.gguf import families
from minitron.integrations.gguf.pre_tokenizers import KNOWN, Known
from minitron.models.shape import HybridShape
from minitron.prune.checkpoint import prune_checkpoint
from minitron.runtime.loading import load_model
from tests.engines.checkpoints import EVERYTHING, FAMILIES, TRAINED, move_heads, write_checkpoints
from tests.engines.reference import PROMPTS
from tests.engines.run_llama_cpp import NEEDS_LLAMA_CPP, NEW_TOKENS, Answer, LlamaCpp, start_llama_cpp
from tests.support.gguf_files import SHAPES, make_mergeable_tokenizer, write_exportable
from tests.support.models import make_dense_shape, make_moe_shape, make_tiny_shape
from tests.support.paths import TEACHER
from tests.support.plans import make_block_widths_plan

pytestmark = NEEDS_LLAMA_CPP

# Differences of log-probabilities, measured 5e-6.
FP32_TOLERANCE = 5e-5
# KL of the teacher in nats a token; llama.cpp rounds activations to the type of the matrix. Measured 6e-13, 1e-7, 7e-6
# and 2e-4; 1e-3 of random models in q8_0.
FP32_KL, F16_KL, BF16_KL, Q8_0_KL, RANDOM_Q8_0_KL = 1e-10, 1e-6, 5e-5, 1e-3, 5e-3
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}
PROMPT = [5, 77, 103, 9, 250, 41, 168, 33, 201, 12, 66, 140]
ODD_TEXTS = (
    "Hello  world, it's 12345.67 o'clock!\n\n\tI'VE   been there\u2026  \r\n x",
    "na\u00efve caf\u00e9 Stra\u00dfe \u0416\u0418\u0417\u041d\u042c \u4f60\u597d\uff0c\u4e16\u754c",
    "\U0001f680\U0001f680 \ud55c\uad6d\uc5b4 \u0663\u0664\u0665 \u00bd",
    "CamelCaseHTTPServer snake_case don'T we'LL\n\n\n   end ",
    "  leading and trailing   ",
    "path/to/file.py:123 // comment\r\n\r\n",
    "\u01c5ungla \u02b0x 1 22 333 4444 55555",
)
# Words with combining marks.
MARKS = "e\u0301 \u0928\u092e\u0938\u094d\u0924\u0947 \u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22"
TEXTS = ("12 + 30 =", "The cat", "Question: Tom has 3 apples.", "Once upon a time", "7 * 8")


@pytest.fixture(scope="module")
def llama_cpp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCpp]:
    """One process for all tests, since starting it takes longer than an answer."""
    with start_llama_cpp(tmp_path_factory.mktemp("llama_cpp") / "stderr") as started:
        yield started


def ask_transformers(folder: Path, prompts: Sequence[Sequence[int]]) -> list[Answer]:
    """Every token from a pass over the whole text without a cache, time steps limited as in training."""
    model = load_model(folder)
    answers = []
    for prompt in prompts:
        text = list(prompt)
        while len(text) < len(prompt) + NEW_TOKENS:
            with torch.no_grad():
                logits = model(torch.tensor([text]), use_cache=False).logits[0]
            text.append(int(logits[-1].argmax()))
        answers.append(Answer(tokens=text[len(prompt) :], logits=logits))
    return answers


def kl(ours: Sequence[Answer], theirs: Sequence[Answer]) -> float:
    """KL from transformers to llama.cpp in nats, the mean over all positions."""
    return (
        torch.cat(
            [
                torch.nn.functional.kl_div(
                    right.logits.double().log_softmax(-1),
                    left.logits.double().log_softmax(-1),
                    log_target=True,
                    reduction="none",
                ).sum(-1)
                for left, right in zip(ours, theirs, strict=True)
            ]
        )
        .mean()
        .item()
    )


def largest_difference(ours: Sequence[Answer], theirs: Sequence[Answer]) -> float:
    """The largest difference of two log-probabilities at the positions of prompts and answers."""
    return max(
        (left.logits.log_softmax(-1) - right.logits.log_softmax(-1)).abs().max().item()
        for left, right in zip(ours, theirs, strict=True)
    )


def assert_same(
    llama_cpp: LlamaCpp,
    folder: Path,
    model: Path,
    prompts: Sequence[Sequence[int]] = (PROMPT,),
    *,
    tolerance: float = FP32_TOLERANCE,
) -> None:
    ours, (theirs, _) = ask_transformers(folder, prompts), llama_cpp.ask(model, prompts)
    assert [answer.tokens for answer in theirs] == [answer.tokens for answer in ours]
    assert largest_difference(ours, theirs) < tolerance


def read_prompts() -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(TEACHER)
    return [tokenizer(text)["input_ids"] for text in TEXTS]


@pytest.fixture(scope="module")
def of_teacher() -> list[Answer]:
    return ask_transformers(TEACHER, read_prompts())


@pytest.mark.parametrize("kind", SHAPES)
def test_every_family_gives_the_same_tokens_and_logits(llama_cpp: LlamaCpp, tmp_path: Path, kind: str) -> None:
    folder = write_exportable(tmp_path / "teacher", SHAPES[kind])
    assert_same(llama_cpp, folder, minitron.export(folder, output=tmp_path / "model.gguf", dtype="f32").output)


FURTHER: dict[str, tuple[HybridShape, dict[str, Any]]] = {
    "groups of which all are used": (make_moe_shape(hybrid_override_pattern="ME*EM", topk_group=3), {}),
    "weights that are scaled and not normed": (
        make_moe_shape(hybrid_override_pattern="ME*EM"),
        {"norm_topk_prob": False, "routed_scaling_factor": 2.5},
    ),
    "no MLP, one group": (make_tiny_shape(hybrid_override_pattern="M*", n_groups=1), {}),
    "another epsilon": (make_tiny_shape(), {"layer_norm_epsilon": 0.3}),
    "another theta": (make_dense_shape("llama"), {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}}),
    "linear": (make_dense_shape("llama"), {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4}}),
    "llama3": (make_dense_shape("llama"), {"rope_parameters": LLAMA3}),
    "yarn": (make_dense_shape("llama", head_dim=32), {"rope_parameters": YARN}),
    "yarn, qwen3": (make_dense_shape("qwen3", head_dim=32), {"rope_parameters": YARN}),
}


@pytest.mark.parametrize("what", FURTHER)
def test_every_setting_means_the_same(llama_cpp: LlamaCpp, tmp_path: Path, what: str) -> None:
    shape, changes = FURTHER[what]
    folder = write_exportable(tmp_path / "teacher", shape)
    plain = ask_transformers(folder, [PROMPT])
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    if changes:  # a setting that changes nothing would say nothing
        assert largest_difference(plain, ask_transformers(folder, [PROMPT])) > 100 * FP32_TOLERANCE
    assert_same(llama_cpp, folder, minitron.export(folder, output=tmp_path / "model.gguf", dtype="f32").output)


@pytest.mark.parametrize(
    ("kind", "name", "wrong"),
    [
        ("llama", "self_attn.k_proj.weight", {"values": None}),
        ("qwen3", "self_attn.k_proj.weight", {"values": "paired"}),
        ("nemotron_h", "mixer.D", {"values": "minus_exp"}),
    ],
)
def test_a_wrong_rule_is_noticed(
    llama_cpp: LlamaCpp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, name: str, wrong: dict[str, Any]
) -> None:
    family = families.FAMILIES[kind]
    rules = {**family.rules, name: replace(family.rules[name], **wrong)}
    monkeypatch.setitem(families.FAMILIES, kind, replace(family, rules=rules))
    folder = write_exportable(tmp_path / "teacher", SHAPES[kind])
    model = minitron.export(folder, output=tmp_path / "model.gguf", dtype="f32").output
    ours, (theirs, _) = ask_transformers(folder, [PROMPT]), llama_cpp.ask(model, [PROMPT])
    assert ours[0].tokens != theirs[0].tokens
    assert largest_difference(ours, theirs) > 100 * FP32_TOLERANCE


@pytest.mark.parametrize("dtype", [None, "f32", "f16"])
def test_the_teacher_gives_the_same_tokens(
    llama_cpp: LlamaCpp, tmp_path: Path, of_teacher: list[Answer], dtype: str | None
) -> None:
    model = minitron.export(TEACHER, output=tmp_path / "model.gguf", dtype=dtype).output
    theirs, _ = llama_cpp.ask(model, read_prompts())
    assert [answer.tokens for answer in theirs] == [answer.tokens for answer in of_teacher]
    assert kl(of_teacher, theirs) < {None: BF16_KL, "f32": FP32_KL, "f16": F16_KL}[dtype]


def test_the_teacher_in_q8_0_is_near(llama_cpp: LlamaCpp, tmp_path: Path, of_teacher: list[Answer]) -> None:
    model = minitron.export(TEACHER, output=tmp_path / "model.gguf", dtype="q8_0").output
    theirs = read_again(llama_cpp, model, read_prompts(), of_teacher)
    assert FP32_KL < kl(of_teacher, theirs) < Q8_0_KL
    agreed = [
        (left.logits.argmax(-1) == right.logits.argmax(-1)).double().mean().item()
        for left, right in zip(of_teacher, theirs, strict=True)
    ]
    assert min(agreed) > 0.9


WIDE_EXPERTS = {
    "hybrid_override_pattern": "ME*EM",
    "hidden_size": 64,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 96,
}
# Rows of whole blocks of 32 in every matrix but those that Mamba heads and query heads make.
WIDE = {
    "nemotron_h": make_tiny_shape(hidden_size=64, intermediate_size=96, head_dim=32),
    "nemotron_h_moe": make_moe_shape(**WIDE_EXPERTS),
    "nemotron_h_moe, latent": make_moe_shape(**WIDE_EXPERTS, moe_latent_size=32),
    "llama": make_dense_shape("llama", hidden_size=96, intermediate_size=64, head_dim=32),
    "qwen3, tied": make_dense_shape("qwen3", hidden_size=96, intermediate_size=64, head_dim=32, tie_word_embeddings=1),
}


@pytest.mark.parametrize("kind", WIDE)
def test_every_family_in_q8_0_is_near(llama_cpp: LlamaCpp, tmp_path: Path, kind: str) -> None:
    folder = write_exportable(tmp_path / "teacher", WIDE[kind])
    done = minitron.export(folder, output=tmp_path / "model.gguf", dtype="q8_0")
    assert done.types["q8_0"] >= 15
    ours = ask_transformers(folder, [PROMPT])
    assert FP32_KL < kl(ours, read_again(llama_cpp, done.output, [PROMPT], ours)) < RANDOM_Q8_0_KL


def read_again(
    llama_cpp: LlamaCpp, model: Path, prompts: Sequence[list[int]], answers: Sequence[Answer]
) -> list[Answer]:
    """llama.cpp's logits at every position of prompts and answers, whatever it would have answered itself."""
    texts = [[*prompt, *answer.tokens[:-1]] for prompt, answer in zip(prompts, answers, strict=True)]
    found, _ = llama_cpp.ask(model, texts, new_tokens=1)
    return found


@pytest.mark.parametrize("name", [*FAMILIES, TRAINED])
def test_every_teacher_and_cut_gives_the_same_tokens(
    llama_cpp: LlamaCpp, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    checkpoints = write_checkpoints(name, tmp_path)
    for number, folder in enumerate(checkpoints.values()):
        if open_checkpoint(folder).shape.vocab_size == 271:
            make_mergeable_tokenizer().save_pretrained(folder)
        model = minitron.export(folder, output=tmp_path / f"{number}.gguf", dtype="f32").output
        assert_same(llama_cpp, folder, model, PROMPTS)
    with capsys.disabled():
        tokens = len(checkpoints) * len(PROMPTS) * NEW_TOKENS
        print(
            f"\nllama.cpp: {name}: {len(checkpoints)} checkpoints ({', '.join(checkpoints)}), {tokens:,} tokens alike"
        )


@pytest.mark.parametrize("kind", ["nemotron_h", "llama"])
def test_ffn_widths_by_block_give_the_same_tokens_and_logits(llama_cpp: LlamaCpp, tmp_path: Path, kind: str) -> None:
    source = open_checkpoint(write_exportable(tmp_path / "teacher", SHAPES[kind]))
    folder = prune_checkpoint(source, make_block_widths_plan(source.shape), tmp_path / "pruned").folder
    assert_same(llama_cpp, folder, minitron.export(folder, output=tmp_path / "model.gguf", dtype="f32").output)


def test_heads_that_changed_their_group_are_noticed(llama_cpp: LlamaCpp, tmp_path: Path) -> None:
    pruned = write_checkpoints("nemotron_h", tmp_path)[EVERYTHING]
    model = minitron.export(move_heads(pruned, tmp_path / "moved"), output=tmp_path / "model.gguf", dtype="f32").output
    right, (wrong, _) = ask_transformers(pruned, [PROMPT]), llama_cpp.ask(model, [PROMPT])
    assert wrong[0].tokens != right[0].tokens
    assert largest_difference(right, wrong) > 100 * FP32_TOLERANCE


def test_the_teachers_text_is_split_alike(llama_cpp: LlamaCpp, tmp_path: Path) -> None:
    model = minitron.export(TEACHER, output=tmp_path / "model.gguf").output
    tokenizer = AutoTokenizer.from_pretrained(TEACHER)
    texts = [*TEXTS, *ODD_TEXTS, MARKS, "<think>7 * 8</think></s>"]
    _, ids = llama_cpp.ask(model, texts=texts)
    assert ids == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_a_named_pre_tokenizer_splits_alike(llama_cpp: LlamaCpp, tmp_path: Path, known: Known) -> None:
    texts = [*ODD_TEXTS, *(() if known.name in ("tekken", "gpt-4o") else (MARKS,))]
    tokenizer = train_tokenizer(known, texts)
    folder = write_exportable(tmp_path / "teacher", make_dense_shape("llama", vocab_size=len(tokenizer)))
    tokenizer.save_pretrained(folder)
    done = minitron.export(folder, output=tmp_path / "model.gguf")
    assert done.pre_tokenizer == known.name
    _, ids = llama_cpp.ask(done.output, texts=texts)
    assert ids == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert all(len(each) < 0.8 * len(text.encode()) for each, text in zip(ids, texts, strict=True))  # words are merged


def train_tokenizer(known: Known, texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE that splits as a known pre-tokenizer, with merges of the texts' own words."""
    steps: dict[str, Callable[[str], Any]] = {
        "digits": lambda _: pre_tokenizers.Digits(individual_digits=True),
        "split": lambda expression: pre_tokenizers.Split(Regex(expression), behavior="isolated"),
        "bytes": lambda words: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words == "words"),
    }
    tokenizer = Tokenizer(models.BPE(ignore_merges=known.ignores_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([steps[what](how) for what, how in known.steps])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(3 * texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
