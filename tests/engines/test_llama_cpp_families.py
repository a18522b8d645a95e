"""Stock llama.cpp against transformers: small teachers of published families, and students cut along every axis."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import minitron
from minitron.errors import MinitronError
from minitron.integrations.gguf import families
from minitron.integrations.gguf.family import GgufFamily, Rule
from tests.engines.reference import PROMPTS, TOLERANCE
from tests.engines.run_llama_cpp import NEEDS_LLAMA_CPP, LlamaCpp, start_llama_cpp
from tests.engines.teachers import EXPERTS, FEWER_EXPERTS, NARROW, TEACHERS, Teacher, write_teacher_and_student
from tests.engines.test_llama_cpp import PROMPT, TEXTS, ask_transformers, assert_same, largest_difference

pytestmark = NEEDS_LLAMA_CPP

GRANITE = TEACHERS["granitemoehybrid"]
# What is exported -> its family, and a teacher of it that llama.cpp's architecture can be.
EXPORTED: dict[str, tuple[str, Teacher]] = {
    "mistral": (
        "mistral",
        replace(
            TEACHERS["mistral"],
            pattern="TTTT",
            sizes={**TEACHERS["mistral"].sizes, "sliding_window": 0},
            says={"sliding_window": None},
        ),
    ),
    "qwen2": ("qwen2", TEACHERS["qwen2"]),
    "smollm3": ("smollm3", replace(TEACHERS["smollm3"], pattern="TTTNTTTN", layers=(0, 1, 2, 3, 5))),
    "qwen3_moe": (
        "qwen3_moe",
        replace(TEACHERS["qwen3_moe"], pattern="XXXX", layers=(0, 1, 3), cut={**NARROW, **FEWER_EXPERTS}),
    ),
    "granitemoehybrid": ("granitemoehybrid", GRANITE),
    "granitemoehybrid, rope": (
        "granitemoehybrid",
        replace(GRANITE, says={**GRANITE.says, "position_embedding_type": "rope"}),
    ),
    "granitemoehybrid, without experts": (
        "granitemoehybrid",
        replace(
            GRANITE,
            sizes={**GRANITE.sizes, **dict.fromkeys(EXPERTS, 0)},
            cut={name: size for name, size in GRANITE.cut.items() if name not in EXPERTS},
            says={**GRANITE.says, "num_local_experts": 0},
        ),
    ),
    "bamba": ("bamba", TEACHERS["bamba"]),
}


@pytest.fixture(scope="module")
def llama_cpp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCpp]:
    with start_llama_cpp(tmp_path_factory.mktemp("llama_cpp") / "stderr") as started:
        yield started


@pytest.mark.parametrize("what", EXPORTED)
def test_teacher_and_student_give_the_tokens_and_probabilities_of_transformers(
    llama_cpp: LlamaCpp, tmp_path: Path, what: str
) -> None:
    name, teacher = EXPORTED[what]
    for part, folder in write_teacher_and_student(name, tmp_path, teacher).items():
        model = minitron.export(folder, output=tmp_path / f"{part}.gguf", dtype="f32").output
        assert_same(llama_cpp, folder, model, PROMPTS, tolerance=TOLERANCE)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        _, ids = llama_cpp.ask(model, texts=TEXTS)
        assert ids == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]


def difference(llama_cpp: LlamaCpp, folder: Path, output: Path) -> float:
    """How far llama.cpp's log-probabilities are from those of transformers."""
    model = minitron.export(folder, output=output, dtype="f32").output
    return largest_difference(ask_transformers(folder, [PROMPT]), llama_cpp.ask(model, [PROMPT])[0])


def heads_turned_whole(family: GgufFamily) -> GgufFamily:
    return replace(family, rotated=lambda shape, _: shape.head_dim)


def halves_exchanged(family: GgufFamily) -> GgufFamily:
    rule = family.rules["shared_mlp.input_linear.weight"]
    swapped = replace(rule, name="ffn_up_shexp.weight", second="ffn_gate_shexp.weight")
    return replace(family, rules={**family.rules, "shared_mlp.input_linear.weight": swapped})


def biases_of_others(family: GgufFamily) -> GgufFamily:
    rules = {"self_attn.q_proj.bias": Rule(name="attn_q.bias", values="paired")}
    return replace(family, rules={**family.rules, **rules})


WRONG = {"bamba": heads_turned_whole, "granitemoehybrid": halves_exchanged, "qwen2": biases_of_others}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_rule_is_noticed(
    llama_cpp: LlamaCpp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setitem(families.FAMILIES, what, WRONG[what](families.FAMILIES[what]))
    folder = write_teacher_and_student(what, tmp_path)["student"]
    assert difference(llama_cpp, folder, tmp_path / "model.gguf") > 100 * TOLERANCE


@pytest.mark.parametrize(("what", "architecture"), [("mistral", "llama"), ("smollm3", "smollm3")])
def test_what_is_refused_llama_cpp_computes_otherwise(
    llama_cpp: LlamaCpp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, architecture: str
) -> None:
    folder = write_teacher_and_student(what, tmp_path)["teacher"]
    with pytest.raises(MinitronError, match="for llama.cpp"):
        minitron.export(folder, output=tmp_path / "model.gguf")
    taken = replace(families.FAMILIES[what], architecture=lambda _: architecture)
    monkeypatch.setitem(families.FAMILIES, what, taken)
    assert difference(llama_cpp, folder, tmp_path / "model.gguf") > 100 * TOLERANCE
