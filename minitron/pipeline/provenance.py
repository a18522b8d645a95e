"""What a written checkpoint says of itself: its lineage with one more step, and the model card that follows from it."""

from dataclasses import asdict
from typing import Any

from minitron.checkpoints.checkpoint import CARD_FILE, Checkpoint
from minitron.checkpoints.lineage import Lineage, add_step, write_lineage
from minitron.report.model_card import model_card
from minitron.report.tables import format_count


def write_about(written: Checkpoint, lineage: Lineage, step: str, **said: Any) -> None:
    """Writes the lineage and the model card into a checkpoint's folder, in place of older ones."""
    lineage = add_step(lineage, step, **said)
    name = f"{lineage['teacher']['name']}-{step}-{format_count(written.params)}"
    card = model_card(lineage, name=name, params=written.params, shape=asdict(written.shape))
    write_lineage(lineage, written.folder)
    (written.folder / CARD_FILE).write_text(card, encoding="utf-8")
