"""Records of an alignment: the quickstart's problems, and problems that cannot be answered, which a model should say.

A problem is a conversation of `examples/quickstart/make_data.py`. It becomes unanswerable when it asks for a letter
that it does not assign:

    a=7;b=a+5;f?     chosen: <think>f is not given</think>none     rejected: <think>b=a+5=7+5=2</think>2

Pairs are of both kinds, so that a model that refuses everything is right about half of them, as is one that never does.
"""

import json
import random
from pathlib import Path
from typing import Any

Turn = dict[str, str]
Record = dict[str, Any]
LETTERS = "abcdefgh"
UNANSWERED = "none"


def read_problems(path: Path, count: int) -> list[list[Turn]]:
    """The first conversations of a JSON-lines file, each a question and its answer.

    Raises:
        ValueError: The file holds fewer.
    """
    with path.open(encoding="utf-8") as file:
        found = [json.loads(line)["messages"] for _, line in zip(range(count), file, strict=False)]
    if len(found) < count:
        raise ValueError(f"{path} must hold {count} conversations, got {len(found)}: make more or ask for less")
    return found


def unanswerable(question: Turn, rng: random.Random) -> tuple[Turn, Turn]:
    """A question that asks for a letter which it does not assign, and the answer that says so."""
    statements, asked = question["content"].rsplit(";", 1)
    free = LETTERS[LETTERS.index(asked.rstrip("?")) + 1 :]
    letter = rng.choice(free)
    refusal = {"role": "assistant", "reasoning_content": f"{letter} is not given", "content": UNANSWERED}
    return {**question, "content": f"{statements};{letter}?"}, refusal


def as_conversations(problems: list[list[Turn]], share: float, rng: random.Random) -> list[Record]:
    """Prompts and completions; a share of the problems, drawn, is made unanswerable."""
    found = []
    for question, answer in problems:
        if rng.random() < share:
            question, answer = unanswerable(question, rng)
        found.append({"prompt": [question], "completion": [answer]})
    return found


def as_pairs(problems: list[list[Turn]], rng: random.Random) -> list[Record]:
    """Prompts, each with a chosen and a rejected answer; every second problem is made unanswerable."""
    found = []
    for number, (question, answer) in enumerate(problems):
        other, refusal = unanswerable(question, rng)
        if number % 2:
            found.append({"prompt": [other], "chosen": [refusal], "rejected": [answer]})
        else:
            found.append({"prompt": [question], "chosen": [answer], "rejected": [refusal]})
    return found


def write_conversations(path: Path, records: list[Record]) -> None:
    """Writes prompts and completions as conversations that minitron reads."""
    lines = [json.dumps({"messages": record["prompt"] + record["completion"]}) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
