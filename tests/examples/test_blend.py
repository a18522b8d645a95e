"""The shipped blend of conversations and text: what it counts, and that it runs from its first stage to its last."""

import json
from pathlib import Path
from typing import Any

import pytest

from minitron.data.encoding import encode_documents
from minitron.data.sequence_file import open_sequence_file
from minitron.data.sources import TextSource
from minitron.pipeline import training
from minitron.pipeline.runner import run_pipeline
from minitron.pipeline.text import text_sources
from minitron.recipe.load import load_recipe
from minitron.runtime.loading import load_tokenizer
from tests.support.dry_runs import forecast
from tests.support.paths import QUICKSTART, TEACHER
from tests.support.quickstart import write_small_quickstart


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkout")
    write_small_quickstart(root)
    return root / "examples" / "quickstart" / "blend.yaml"


def test_its_dry_run_counts_the_published_shares(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = forecast(capsys, recipe)
    assert found["missing"] == []
    shipped = load_recipe(QUICKSTART / "blend.yaml")
    assert [(source.weight, source.loss) for source in shipped.distill.data] == [(0.7, "answers"), (0.3, None)]
    sources = text_sources(load_recipe(recipe).distill.data)
    assert [source.is_masked for source in sources] == [True, False]


def test_its_conversations_are_the_text_that_the_teacher_was_trained_on(recipe: Path) -> None:
    tokenizer: Any = load_tokenizer(TEACHER)
    chat = TextSource(
        path=str(recipe.parent / "data/chat-train.jsonl"), chat_template=str(recipe.parent / "chat.jinja")
    )
    text = TextSource(path=str(recipe.parent / "data/problems-train.jsonl"))
    conversations = encode_documents(list(chat.read()), tokenizer, chat.chat)
    texts = encode_documents(list(text.read()), tokenizer)
    assert [found.ids_n for found in conversations] == [found.ids_n for found in texts]
    assert len(texts) > 50
    for found in conversations[:5]:
        assert found.counted_n is not None
        counted = tokenizer.decode([i for i, mine in zip(found.ids_n, found.counted_n, strict=True) if mine])
        prompt = tokenizer.decode([i for i, mine in zip(found.ids_n, found.counted_n, strict=True) if not mine])
        assert counted.startswith("<think>")
        assert counted.endswith("</s>")
        assert prompt.endswith("?\n")


def test_it_runs_and_trains_on_answers(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = []

    def keep(*given: Any, **named: Any) -> Any:
        found = open_sequence_file(original(*given, **named).path)
        packed.append((found.header.version, found.counted(slice(None))))
        return found

    original = training.shared_sequence_file
    monkeypatch.setattr(training, "shared_sequence_file", keep)
    outcomes = list(run_pipeline(load_recipe(recipe), recipe.parent / "run"))
    assert outcomes[-1].name == "report"
    ((version, counted_NT),) = packed
    assert version == 2
    assert counted_NT is not None
    assert 0.4 < counted_NT.mean() < 0.95
    metrics = json.loads((recipe.parent / "run/evaluate/metrics.json").read_text())
    assert metrics["teacher"]["kl_to_teacher"] < 1e-6 < metrics["distilled"]["kl_to_teacher"]
