from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch.nn import functional as F
from transformers import PreTrainedModel

from minitron.data.masks import PackedText
from minitron.errors import DataError
from minitron.evaluate.perplexity import evaluate_text
from minitron.evaluate.task import Problem, evaluate_task, extract_answer, read_problems
from minitron.models.shape import HybridShape
from tests.support.models import make_tiny_model, make_tiny_shape, make_tokenizer


def test_loss_and_kl_equal_a_plain_fp64_computation(tiny_model: PreTrainedModel, tiny_shape: HybridShape) -> None:
    teacher = make_tiny_model(tiny_shape, seed=5)
    sequences_NT = np.random.default_rng(0).integers(3, 271, (3, 11), dtype=np.int32)
    ids_NT = torch.from_numpy(sequences_NT).long()
    with torch.no_grad():
        log_q = F.log_softmax(tiny_model(ids_NT, use_cache=False).logits[:, :-1].double(), dim=-1)
        log_p = F.log_softmax(teacher(ids_NT, use_cache=False).logits[:, :-1].double(), dim=-1)
    loss = -log_q.gather(-1, ids_NT[:, 1:, None]).mean()
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    found = evaluate_text(tiny_model, sequences_NT, teacher=teacher, batch_size=2)
    assert found.loss == pytest.approx(float(loss), rel=1e-5)
    assert found.kl_to_teacher == pytest.approx(float(kl), rel=1e-5)


@pytest.mark.parametrize(("student_rows", "teacher_rows"), [(271, 288), (288, 271)])
def test_rows_that_only_one_head_has_are_padding_for_the_kl_and_not_for_the_loss(
    student_rows: int, teacher_rows: int
) -> None:
    model = make_tiny_model(make_tiny_shape(vocab_size=student_rows))
    teacher = make_tiny_model(make_tiny_shape(vocab_size=teacher_rows), seed=5)
    sequences_NT = np.random.default_rng(0).integers(3, 271, (3, 11), dtype=np.int32)
    ids_NT = torch.from_numpy(sequences_NT).long()
    with torch.no_grad():
        logits, teacher_logits = (one(ids_NT, use_cache=False).logits[:, :-1].double() for one in (model, teacher))
    loss = -F.log_softmax(logits, dim=-1).gather(-1, ids_NT[:, 1:, None]).mean()
    log_q, log_p = (F.log_softmax(found[..., :271], dim=-1) for found in (logits, teacher_logits))
    found = evaluate_text(model, sequences_NT, teacher=teacher, batch_size=2)
    assert found.loss == pytest.approx(float(loss), rel=1e-5)
    assert found.kl_to_teacher == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum(-1).mean()), rel=1e-5)


@pytest.mark.parametrize(("student_rows", "teacher_rows"), [(271, 288), (288, 271)])
def test_of_masked_sequences_the_tokens_that_count_are_measured_over_the_rows_of_both(
    student_rows: int, teacher_rows: int
) -> None:
    model = make_tiny_model(make_tiny_shape(vocab_size=student_rows))
    teacher = make_tiny_model(make_tiny_shape(vocab_size=teacher_rows), seed=5)
    rng = np.random.default_rng(1)
    ids_NT, counted_NT = rng.integers(3, 271, (5, 9), dtype=np.int32), rng.random((5, 9)) < 0.4
    counted_NT[3] = False  # a batch of which nothing counts
    losses, kls = [], []
    for ids_T, counted_T in zip(torch.from_numpy(ids_NT).long(), counted_NT, strict=True):
        with torch.no_grad():
            logits, others = (one(ids_T[None], use_cache=False).logits[0].double() for one in (model, teacher))
        for position in range(8):
            if counted_T[position + 1]:
                losses.append(-float(F.log_softmax(logits[position], dim=-1)[ids_T[position + 1]]))
                log_q, log_p = (F.log_softmax(found[position, :271], dim=-1) for found in (logits, others))
                kls.append(float((log_p.exp() * (log_p - log_q)).sum()))
    found = evaluate_text(model, PackedText(ids_NT=ids_NT, counted_NT=counted_NT), teacher=teacher, batch_size=1)
    assert found.loss == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert found.kl_to_teacher == pytest.approx(sum(kls) / len(kls), rel=1e-5)


def test_sequences_of_which_nothing_counts_are_refused(tiny_model: PreTrainedModel) -> None:
    nothing = PackedText(ids_NT=np.full((2, 5), 7, dtype=np.int32), counted_NT=np.zeros((2, 5), dtype=bool))
    with pytest.raises(DataError, match="have no answer; set loss: all"):
        evaluate_text(tiny_model, nothing)


@pytest.mark.parametrize("listed", [[7, 9], 9, None])
@pytest.mark.parametrize("named", [True, False])
def test_generation_stops_at_any_token_that_the_model_or_the_tokenizer_names(
    tiny_model: PreTrainedModel, listed: Any, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = make_tokenizer()
    if not named:
        tokenizer.eos_token = None
    tiny_model.generation_config.eos_token_id = listed
    seen: dict[str, Any] = {}

    def generate(ids_BT: torch.Tensor, **given: Any) -> torch.Tensor:
        seen.update(given, ids=ids_BT.tolist())
        answer = torch.tensor([[*tokenizer.convert_tokens_to_ids(list("42")), stop, 5] for stop in (9, 9)])
        return torch.cat([ids_BT, answer], dim=1)

    monkeypatch.setattr(tiny_model, "generate", generate)
    problems = [Problem(prompt="ab", answer="42"), Problem(prompt="abc", answer="42")]
    found = evaluate_task(tiny_model, tokenizer, problems, max_new_tokens=4)
    stops = {*([2] if named else []), *(listed if isinstance(listed, list) else [] if listed is None else [listed])}
    assert seen["eos_token_id"] == (sorted(stops) or None)
    assert [sum(row) for row in seen["attention_mask"].tolist()] == [2, 3]
    assert seen["ids"][0][1:] == tokenizer.convert_tokens_to_ids(list("ab"))
    assert found.exact_match == (1.0 if 9 in stops else 0.0)


@pytest.mark.parametrize(
    ("generated", "answer"),
    [
        ("<think>a=1</think>7", "7"),
        ("<think>a=1</think> 12 ", "12"),
        ("<think>a=1;b=", ""),
        ("42", "42"),
        ("a=1</think>5", "5"),
    ],
)
def test_the_answer_is_what_follows_the_trace(generated: str, answer: str) -> None:
    assert extract_answer(generated) == answer


@pytest.mark.parametrize("adds_eos", [False, True])
def test_exact_match_counts_each_problem_once_whatever_the_batches(tiny_model: PreTrainedModel, adds_eos: bool) -> None:
    tokenizer = make_tokenizer()
    prompts = ["ab", "cdefg", "hij", "k"]

    def greedy(prompt: str) -> str:
        ids: Any = tokenizer(prompt, return_tensors="pt")["input_ids"]
        for _ in range(3):
            with torch.no_grad():
                next_id = tiny_model(ids, use_cache=False).logits[0, -1].argmax()
            if int(next_id) == tokenizer.eos_token_id:
                break
            ids = torch.cat([ids, next_id[None, None]], dim=1)
        return str(tokenizer.decode(ids[0, len(prompt) :])).strip()

    answers = [greedy(prompt) for prompt in prompts]
    problems = [Problem(prompt=prompt, answer=answer) for prompt, answer in zip(prompts, answers, strict=True)]
    tokenizer.padding_side = "left"
    if adds_eos:
        closing = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
        tokenizer.backend_tokenizer.post_processor = closing
    for batch_size in (1, 4):
        found = evaluate_task(tiny_model, tokenizer, problems, max_new_tokens=3, batch_size=batch_size)
        assert found.exact_match == 1.0
    wrong = [Problem(prompt=prompt, answer="no such answer") for prompt in prompts]
    assert evaluate_task(tiny_model, tokenizer, wrong, max_new_tokens=3).exact_match == 0.0


def test_a_task_file_without_its_fields_is_refused(tmp_path: Path) -> None:
    (tmp_path / "task.jsonl").write_text('{"prompt": "a", "answer": "b"}\n{"prompt": "a"}\n')
    with pytest.raises(ValueError, match=r"task\.jsonl:2 has prompt"):
        read_problems(tmp_path / "task.jsonl")
    assert len(read_problems(tmp_path / "task.jsonl", limit=1)) == 1
