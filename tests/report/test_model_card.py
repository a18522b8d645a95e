"""The model card says what the model is, how it was made and from what, and its header is YAML."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from minitron.checkpoints.checkpoint import checkpoint_hashes, open_checkpoint
from minitron.checkpoints.lineage import add_step, lineage_of, read_lineage, write_lineage
from minitron.estimate.serving.memory import MemoryBytes
from minitron.evaluate.metrics import Metrics
from minitron.report.model_card import CardResults, Described, model_card
from minitron.report.serving_commands import serving_commands
from tests.support.models import write_tiny_checkpoint

REPO = "owner/tiny"


def test_a_card_names_the_teacher_every_step_and_the_hashes(tmp_path: Path) -> None:
    teacher = open_checkpoint(write_tiny_checkpoint(tmp_path / "tiny-teacher"))
    hashes = checkpoint_hashes(teacher.folder)
    lineage = add_step(lineage_of(teacher, hashes=hashes), "prune", removed_blocks=[1, 5], seed=3)
    lineage = add_step(lineage, "distill", tokens=1_000_000)
    target = teacher.shape.resized(layers=[0, 2, 3, 4, 6, 7], hidden_size=14)
    shape = {"hybrid_override_pattern": target.hybrid_override_pattern, **target.sizes}
    card = model_card(lineage, Described(name="tiny-pruned", params=target.params, shape=shape), commands=())
    header = yaml.safe_load(card.split("---")[1])
    assert header["base_model"] == "tiny-teacher"
    assert header["tags"] == ["minitron", "prune", "distill"]
    assert f"| parameters | {teacher.params:,} | {target.params:,} |" in card
    assert "| hidden size | 22 | 14 |" in card
    assert "pruned, then distilled from its teacher's logits" in card
    assert "| removed blocks | 1, 5 |" in card
    assert "| tokens | 1,000,000 |" in card
    assert "Not measured yet" in card
    assert hashes["model"] in card
    assert str(tmp_path) not in card


def card_of_pruned(folder: Path, header: str, results: CardResults | None = None) -> ModelCard:
    """The card of a cut of a teacher whose own card has a header."""
    folder = write_tiny_checkpoint(folder / "tiny-teacher")
    (folder / "README.md").write_text(f"---\n{header}\n---\n\n# Teacher\n")
    teacher = open_checkpoint(folder)
    lineage = add_step(lineage_of(teacher, hashes=checkpoint_hashes(folder)), "prune")
    shape = {"hybrid_override_pattern": teacher.shape.hybrid_override_pattern, **teacher.shape.sizes}
    described = Described(name="tiny|pruned", params=teacher.params, shape=shape)
    commands = serving_commands(REPO, context_tokens=64, refusals={"vllm": ["it is too small"]})
    return ModelCard(model_card(lineage, described, commands=commands, results=results))


def metrics(scale: int, *, kl: float) -> Metrics:
    memory = MemoryBytes(weights_bytes=scale * 2**20, kv_bytes=0, ssm_bytes=0, conv_bytes=0, workspace_bytes=0)
    return Metrics(
        params=3, memory=memory, loss=1.5 * scale, kl_to_teacher=kl, speed=None, bits_per_byte=0.75,
        task="two | sums", exact_match=0.5, problems=4,
    )  # fmt: skip


RESULTS = CardResults(
    teacher=metrics(7, kl=0.0), model=metrics(3, kl=0.25), sequences=6, seq_len=40, budget_bytes=5 * 2**20,
    context_tokens=2048, accounting="plain",
)  # fmt: skip


def test_licence_and_languages_of_the_teacher_go_on(tmp_path: Path) -> None:
    card = card_of_pruned(tmp_path, "license: other\nlicense_name: open\nlanguage: [de, en]\ntags: [theirs]")
    assert (card.data.license, card.data.license_name, card.data.language) == ("other", "open", ["de", "en"])
    assert card.data.tags == ["minitron", "prune"]
    assert "- licence of the teacher: other" in card.text


@pytest.mark.parametrize("header", ["license: [", "- a list", "title: none"])
def test_a_teacher_without_a_licence_is_said_to_have_none(tmp_path: Path, header: str) -> None:
    card = card_of_pruned(tmp_path, header)
    assert card.data.license is None
    assert "its card names none" in card.text


def test_results_are_a_table_and_what_the_hub_reads(tmp_path: Path) -> None:
    card = card_of_pruned(tmp_path, "license: mit", RESULTS)
    for row in (
        "| held-out loss, nats a token | 10.5000 | 4.5000 |",
        "| KL to the teacher, nats a token | 0.0000 | 0.2500 |",
        "| two \\| sums, exact match | 50.0% | 50.0% |",
        "| memory at 2,048 tokens | 7.000 MiB | 3.000 MiB |",
        "**Budget**: 5.000 MiB at 2,048 tokens, counting what is stored; this model **fits**.",
    ):
        assert row in card.text
    found = {(one.dataset_name, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert found == {
        ("held-out text of the run", "loss"): 4.5,
        ("held-out text of the run", "bits_per_byte"): 0.75,
        ("held-out text of the run", "kl_divergence"): 0.25,
        ("two | sums", "exact_match"): 0.5,
    }
    assert card.data.model_name == "tiny|pruned"
    assert "&id" not in card.content


def test_a_model_above_its_budget_says_so(tmp_path: Path) -> None:
    card = card_of_pruned(tmp_path, "license: mit", replace(RESULTS, budget_bytes=2 * 2**20))
    assert "this model **does not fit**" in card.text
    assert "- It takes more memory than its budget." in card.text


def test_engines_that_take_it_have_a_command_and_others_a_reason(tmp_path: Path) -> None:
    card = card_of_pruned(tmp_path, "license: mit")
    assert f'from_pretrained("{REPO}")' in card.text
    assert "llama-server -m student.gguf -c 64" in card.text
    assert "vLLM: does not take it: it is too small" in card.text
    assert "vllm serve" not in card.text


def test_a_lineage_goes_on_from_what_a_folder_says(tmp_path: Path) -> None:
    first = open_checkpoint(write_tiny_checkpoint(tmp_path / "one"))
    second = open_checkpoint(write_tiny_checkpoint(tmp_path / "two"))
    before = checkpoint_hashes(second.folder)
    write_lineage(add_step(lineage_of(first, hashes={"model": "ab"}), "prune"), second.folder)
    assert checkpoint_hashes(second.folder) == before
    lineage = lineage_of(second, hashes=before)
    assert lineage == read_lineage(second.folder)
    assert lineage["teacher"]["name"] == "one"
    assert [step["step"] for step in lineage["steps"]] == ["prune"]
    assert set(lineage["steps"][0]["versions"]) == {"minitron", "torch", "transformers"}
