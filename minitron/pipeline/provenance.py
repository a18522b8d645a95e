"""Provenance of a written checkpoint: its lineage with one more step, and its model card."""

from dataclasses import asdict

from minitron.artifacts.atomic import write_text
from minitron.checkpoints.checkpoint import CARD_FILE, Checkpoint
from minitron.checkpoints.lineage import Lineage, add_step, write_lineage
from minitron.report.model_card import model_card
from minitron.report.tables import format_count


def write_provenance(written: Checkpoint, lineage: Lineage, step: str, **settings: object) -> None:
    """Writes lineage and model card into a checkpoint's folder, in place of older ones.

    Args:
        written: The checkpoint.
        lineage: That of the checkpoint it was made from.
        step: What made it, as in `prune`.
        settings: What the step depended on.
    """
    lineage = add_step(lineage, step, **settings)
    name = f"{lineage['teacher']['name']}-{step}-{format_count(written.params)}"
    card = model_card(lineage, name=name, params=written.params, shape=asdict(written.shape))
    write_lineage(lineage, written.folder)
    write_text(written.folder / CARD_FILE, card)
