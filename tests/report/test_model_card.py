"""The model card says what the model is, how it was made and from what, and its header is YAML."""

from pathlib import Path

import yaml

from minitron.checkpoints.checkpoint import checkpoint_hashes, open_checkpoint
from minitron.checkpoints.lineage import add_step, lineage_of, read_lineage, write_lineage
from minitron.report.model_card import model_card
from tests.support.models import write_tiny_checkpoint


def test_a_card_names_the_teacher_every_step_and_the_hashes(tmp_path: Path) -> None:
    teacher = open_checkpoint(write_tiny_checkpoint(tmp_path / "tiny-teacher"))
    hashes = checkpoint_hashes(teacher.folder)
    lineage = add_step(lineage_of(teacher, hashes=hashes), "prune", removed_blocks=[1, 5], seed=3)
    lineage = add_step(lineage, "distill", tokens=1_000_000)
    target = teacher.shape.resized(layers=[0, 2, 3, 4, 6, 7], hidden_size=14)
    shape = {"hybrid_override_pattern": target.hybrid_override_pattern, **target.sizes}
    card = model_card(lineage, name="tiny-pruned", params=target.params, shape=shape)
    header = yaml.safe_load(card.split("---")[1])
    assert header["base_model"] == "tiny-teacher"
    assert header["tags"] == ["minitron", "prune", "distill"]
    assert f"| parameters | {teacher.params:,} | {target.params:,} |" in card
    assert "| hidden size | 22 | 14 |" in card
    assert "pruned, then distilled from its teacher's logits" in card
    assert "removed blocks: 1, 5" in card
    assert "tokens: 1,000,000" in card
    assert hashes["model"] in card
    assert str(tmp_path) not in card


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
