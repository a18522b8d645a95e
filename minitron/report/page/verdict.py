"""The page's first answers: does it fit, how good is it, how fast, and how to serve it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from minitron.estimate.serving.fit import FitReport
from minitron.evaluate.metrics import Metrics
from minitron.report.page.parts import Answer, Answers, Code, Part, Section, Table, missing
from minitron.search.record import SearchRecord
from minitron.units import format_bytes

PRUNED, DISTILLED = "pruned", "distilled"
TEACHERS = ("cut teacher", "teacher")  # what a KL is to, the first of them that there is


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the first answers are made of; None is what the run does not have.

    Attributes:
        fits: Model -> bytes against the budget, the teacher first.
        student: The model of `fits` that the answers are of.
        metrics: Metrics by model.
        search: The candidates, which have predicted speeds where the budget names a GPU.
        context_tokens: The budget's context.
        commands: How to serve the student.
        commands_missing: Why there are none.
        absent: A line for each thing that the run does not have.
    """

    fits: Mapping[str, FitReport]
    student: str
    metrics: Mapping[str, Metrics] | None
    search: SearchRecord | None
    context_tokens: int
    commands: Sequence[Code]
    commands_missing: str = ""
    absent: Sequence[str] = ()


def verdict_section(found: Verdict) -> Section:
    """Answers, the table behind them, and the commands."""
    parts: list[Part] = [Answers(answers=(_fits(found), _quality(found), _speed(found)))]
    parts.append(_table(found))
    parts += [missing(line) for line in found.absent]
    parts += found.commands or [missing(found.commands_missing)]
    return Section(name="verdict", title="Verdict", parts=tuple(parts))


def _fits(found: Verdict) -> Answer:
    report = found.fits.get(found.student)
    question = "Does it fit the budget?"
    if report is None:
        return Answer(question=question, answer="not known yet", detail="no shape has been chosen")
    side = "left" if report.fits else "too many"
    detail = (
        f"{found.student}: {format_bytes(report.memory.total_bytes)} of {format_bytes(report.budget_bytes)} at "
        f"{found.context_tokens:,} tokens, {format_bytes(abs(report.headroom_bytes))} {side}"
    )
    return Answer(
        question=question,
        answer="yes" if report.fits else "no",
        detail=detail,
        tone="good" if report.fits else "bad",
    )


def _quality(found: Verdict) -> Answer:
    question = "How good is it?"
    metrics = found.metrics or {}
    teacher = next((metrics[name] for name in TEACHERS if name in metrics), None)
    student = metrics.get(DISTILLED)
    if student is None or teacher is None:
        return Answer(question=question, answer="not measured yet", detail=_predicted_quality(found))
    detail = f"held-out loss {student.loss:.4f}, the teacher's is {teacher.loss:.4f}"
    if student.exact_match is not None and teacher.exact_match is not None:
        detail += f"; {student.task}: {student.exact_match:.1%} right, the teacher {teacher.exact_match:.1%}"
    return Answer(question=question, answer=f"KL {_form(student.kl_to_teacher, '.4f')} nats a token", detail=detail)


def _predicted_quality(found: Verdict) -> str:
    if found.search is None:
        return "the run has neither candidates nor metrics"
    chosen = found.search.candidates[0]
    start = chosen.repaired or chosen.zero_shot
    kept = f"the chosen shape keeps {_form(chosen.retained, '.1%')} of the importance"
    return kept if start is None else f"{kept}; KL {start.kl:.4f} before training"


def _speed(found: Verdict) -> Answer:
    question = "How fast is it?"
    measured = (found.metrics or {}).get(DISTILLED)
    if measured is not None and measured.speed is not None:
        speed = measured.speed
        return Answer(
            question=question,
            answer=f"{speed.tokens_per_s.median:,.0f} tokens/s",
            detail=f"measured: {speed.concurrency} requests at once in transformers; {speed.ratio.text('.2f')} times "
            "the teacher's",
        )
    search = found.search
    if search is None or search.device is None:
        return Answer(
            question=question,
            answer="not known",
            detail="not measured (evaluate.speed), and the budget names no GPU to predict for",
        )
    chosen = search.candidates[0].tokens_per_s or 0.0
    ratio = "" if not search.source.tokens_per_s else f", {chosen / search.source.tokens_per_s:.2f} times the source's"
    return Answer(
        question=question,
        answer=f"{chosen:,.1f} tokens/s",
        detail=f"predicted for {search.device} by the throughput model, not measured{ratio}",
    )


def _table(found: Verdict) -> Table:
    models = list(dict.fromkeys([*found.fits, *(found.metrics or {})]))
    metrics = [(found.metrics or {}).get(model) for model in models]
    fits = [found.fits.get(model) for model in models]
    speeds = [None if one is None else one.speed for one in metrics]
    params = [
        one.params if one else report.params if report else None for one, report in zip(metrics, fits, strict=True)
    ]
    totals = [
        one.memory.total_bytes if one else report.memory.total_bytes if report else None
        for one, report in zip(metrics, fits, strict=True)
    ]
    budget = next((report.budget_bytes for report in fits if report is not None), None)
    rows = [
        ("parameters", [_form(count, ",") for count in params]),
        (f"memory at {found.context_tokens:,} tokens", [_bytes(total) for total in totals]),
        (f"budget {_bytes(budget)}", [_word(total, budget) for total in totals]),
        ("held-out loss, nats a token", [_form(one.loss if one else None, ".4f") for one in metrics]),
        ("held-out bits a byte", [_form(one.bits_per_byte if one else None, ".4f") for one in metrics]),
        ("KL to the teacher, nats a token", [_form(one.kl_to_teacher if one else None, ".4f") for one in metrics]),
    ]
    tasks = [one.task for one in metrics if one is not None and one.task is not None]
    if tasks:
        rows.append((f"{tasks[0]}, exact match", [_form(one.exact_match if one else None, ".1%") for one in metrics]))
    rows.append(
        ("output tokens/s, measured", [_form(one.tokens_per_s.median if one else None, ",.0f") for one in speeds])
    )
    rows.append(("times the teacher's", [_form(one.ratio.median if one else None, ".2f") for one in speeds]))
    predicted = _predicted_speeds(found, models)
    if any(predicted):
        rows.append((f"output tokens/s, predicted for {found.search.device if found.search else ''}", predicted))
    return Table(columns=("", *models), rows=tuple((label, *cells) for label, cells in rows))


def _predicted_speeds(found: Verdict, models: Sequence[str]) -> list[str]:
    if found.search is None or found.search.device is None:
        return []
    speeds = {
        next(iter(found.fits)): found.search.teacher.tokens_per_s,
        found.student: found.search.candidates[0].tokens_per_s,
    }
    return [_form(speeds.get(model), ",.1f") for model in models]


def _word(total: int | None, budget: int | None) -> str:
    if total is None or budget is None:
        return "-"
    return "fits" if total <= budget else "too large"


def _bytes(count: int | None) -> str:
    return "-" if count is None else format_bytes(count)


def _form(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
