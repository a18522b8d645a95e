"""Stock llama.cpp against transformers: small teachers of published families, and students cut along every axis."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import minitron
from tests.engines.reference import PROMPTS, TOLERANCE
from tests.engines.run_llama_cpp import NEEDS_LLAMA_CPP, LlamaCpp, start_llama_cpp
from tests.engines.teachers import EXPERTS, FEWER_EXPERTS, NARROW, TEACHERS, Teacher, write_teacher_and_student
from tests.engines.test_llama_cpp import TEXTS, assert_same

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
