"""Provenance of a written checkpoint: its lineage with one more step, and its model card."""

from dataclasses import asdict

from minitron.artifacts.atomic import write_text
from minitron.checkpoints.checkpoint import CARD_FILE, Checkpoint
from minitron.checkpoints.lineage import Lineage, add_step, write_lineage
from minitron.report.model_card import CardResults, Described, model_card
from minitron.report.serving_commands import served_context, serving_commands, shape_refusals
from minitron.report.tables import format_count

# Of commands in a card of a checkpoint that was not measured for a budget.
DEFAULT_CONTEXT = 8192


def write_provenance(written: Checkpoint, lineage: Lineage, step: str, **settings: object) -> None:
    """Writes lineage and model card into a checkpoint's folder, in place of older ones.

    Args:
        written: The checkpoint.
        lineage: That of the checkpoint it was made from.
        step: What made it, as in `prune`.
        settings: What the step depended on.
    """
    lineage = add_step(lineage, step, **settings)
    write_lineage(lineage, written.folder)
    write_text(written.folder / CARD_FILE, card_of(written, lineage, where="."))


def card_of(checkpoint: Checkpoint, lineage: Lineage, *, where: str, results: CardResults | None = None) -> str:
    """The model card of a checkpoint.

    Args:
        checkpoint: The checkpoint.
        lineage: Its lineage, of one step at least.
        where: What it is loaded from: its folder, or a name on the hub.
        results: What was measured of it; None where nothing has been.
    """
    name = f"{lineage['teacher']['name']}-{lineage['steps'][-1]['step']}-{format_count(checkpoint.params)}"
    wanted = DEFAULT_CONTEXT if results is None else results.context_tokens
    refusals = shape_refusals(checkpoint.shape, [key for key, value in checkpoint.config.items() if value is not None])
    return model_card(
        lineage,
        Described(name=name, params=checkpoint.params, shape=asdict(checkpoint.shape)),
        commands=serving_commands(where, context_tokens=served_context(checkpoint.config, wanted), refusals=refusals),
        results=results,
    )
