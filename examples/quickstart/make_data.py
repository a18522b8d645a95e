"""Writes the quickstart's text: the Python standard library's own source, and generated reasoning problems.

Six JSON-lines files come out: `text-train.jsonl` and `text-heldout.jsonl` (whole modules of the standard library of
the Python that runs this script, split by a hash of the module's name), `problems-train.jsonl` (problems with their
reasoning trace), and `problems-test.jsonl` (prompt and answer, of problems that the training file can never hold,
because the split is a hash of the problem itself); and the problems as conversations, `chat-train.jsonl` and
`chat-test.jsonl`, with the trace in a field of its own, which `chat.jinja` renders as the text of the other files.

A problem is a chain of assignments modulo 10. The answer follows a trace that substitutes and computes step by step:

    a=7;b=a+5;c=b*3;c?
    <think>b=a+5=7+5=2;c=b*3=2*3=6</think>6
"""

import argparse
import hashlib
import itertools
import json
import random
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

HELD_OUT_ONE_IN = 20
MIN_STEPS, MAX_STEPS = 2, 5
NAMES = "abcdef"
# Not prose and not code a reader would learn from: tests, bundled wheels, code-page tables.
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "lib2to3", "encodings", "ensurepip", "__pycache__"}


def stdlib_modules() -> Iterator[tuple[str, str]]:
    """Yields (relative path, source text) of the Python files of this interpreter's library that hold any, sorted."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if SKIPPED_FOLDERS.isdisjoint(relative.parts) and not relative.parts[0].startswith("config-"):
            text = path.read_text(encoding="utf-8", errors="replace")
            if text:
                yield relative.as_posix(), text


def is_held_out(key: str) -> bool:
    """Whether a document belongs to the held-out split: fixed by its name alone, on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") % HELD_OUT_ONE_IN == 0


def make_problem(rng: random.Random) -> tuple[str, str, int]:
    """Returns (prompt, trace, answer) of one random chain of assignments modulo 10."""
    steps = rng.randint(MIN_STEPS, MAX_STEPS)
    value = rng.randrange(10)
    statements, trace = [f"{NAMES[0]}={value}"], []
    for previous, name in itertools.pairwise(NAMES[: steps + 1]):
        operator, digit = rng.choice("+-*"), rng.randrange(10)
        result = {"+": value + digit, "-": value - digit, "*": value * digit}[operator] % 10
        statements.append(f"{name}={previous}{operator}{digit}")
        trace.append(f"{name}={previous}{operator}{digit}={value}{operator}{digit}={result}")
        value = result
    prompt = ";".join(statements) + f";{NAMES[steps]}?\n"
    return prompt, f"<think>{';'.join(trace)}</think>", value


def make_problems(seed: int, count: int, *, held_out: bool) -> Iterator[tuple[str, str, int]]:
    """Yields `count` problems of one side of the split."""
    rng = random.Random(seed)
    while count > 0:
        problem = make_problem(rng)
        if is_held_out(problem[0]) == held_out:
            count -= 1
            yield problem


def make_chat(problem: tuple[str, str, int]) -> dict[str, list[dict[str, str]]]:
    """A problem as a conversation of two turns."""
    prompt, trace, answer = problem
    thought = trace.removeprefix("<think>").removesuffix("</think>")
    return {
        "messages": [
            {"role": "user", "content": prompt.rstrip("\n")},
            {"role": "assistant", "reasoning_content": thought, "content": str(answer)},
        ]
    }


def write_jsonl(path: Path, records: Iterable[object]) -> int:
    """Writes one object a line and returns how many."""
    lines = [json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def write_data(output: Path, *, seed: int, train_problems: int, test_problems: int) -> dict[str, int]:
    """Writes the six files into `output` and returns the number of documents in each."""
    output.mkdir(parents=True, exist_ok=True)
    modules = list(stdlib_modules())
    return {
        "text-train.jsonl": write_jsonl(
            output / "text-train.jsonl", ({"name": n, "text": t} for n, t in modules if not is_held_out(n))
        ),
        "text-heldout.jsonl": write_jsonl(
            output / "text-heldout.jsonl", ({"name": n, "text": t} for n, t in modules if is_held_out(n))
        ),
        "problems-train.jsonl": write_jsonl(
            output / "problems-train.jsonl",
            ({"text": f"{p}{t}{a}"} for p, t, a in make_problems(seed, train_problems, held_out=False)),
        ),
        "problems-test.jsonl": write_jsonl(
            output / "problems-test.jsonl",
            (
                {"prompt": p, "answer": str(a), "text": f"{p}{t}{a}"}
                for p, t, a in make_problems(seed + 1, test_problems, held_out=True)
            ),
        ),
        "chat-train.jsonl": write_jsonl(
            output / "chat-train.jsonl", map(make_chat, make_problems(seed, train_problems, held_out=False))
        ),
        "chat-test.jsonl": write_jsonl(
            output / "chat-test.jsonl", map(make_chat, make_problems(seed + 1, test_problems, held_out=True))
        ),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for the six files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train-problems", type=int, default=40_000)
    parser.add_argument("--test-problems", type=int, default=400)
    args = parser.parse_args()
    counts = write_data(
        args.output, seed=args.seed, train_problems=args.train_problems, test_problems=args.test_problems
    )
    for name, count in counts.items():
        print(f"{args.output / name}: {count:,} documents")


if __name__ == "__main__":
    main()
