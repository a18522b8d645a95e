"""Kept and removed blocks of a teacher: a square for each, and how many of each kind are left."""

from collections.abc import Collection

from minitron.importance.summary import BlockSummary
from minitron.models.shape import HybridShape
from minitron.report.page.parts import Block, Diagram, Section, Table
from minitron.report.score_figures import KIND_COLORS


def blocks_section(
    teacher: HybridShape, kept: Collection[int], *, summaries: dict[int, BlockSummary], taken_from: str
) -> Section:
    """The teacher's blocks, and which of them the student has.

    Args:
        teacher: The teacher's shape.
        kept: Indices of its blocks that stay.
        summaries: Block -> what its scores say; blocks without scores are left out.
        taken_from: What the kept blocks are known from.
    """
    kinds = teacher.family.block_kinds
    blocks, rows = [], []
    for layer, letter in enumerate(teacher.hybrid_override_pattern):
        is_kept, score = layer in kept, summaries.get(layer)
        fate = "kept" if is_kept else "removed"
        depth = "" if score is None else f"{score.depth:.4g}"
        about = f"block {layer}, {kinds[letter]}: {fate}" + (f", depth score {depth}" if depth else "")
        blocks.append(Block(letter=letter, color=KIND_COLORS[letter], kept=is_kept, about=about))
        rows.append((str(layer), kinds[letter], fate, depth))
    used = [letter for letter in kinds if letter in teacher.hybrid_override_pattern]
    counts = [
        (
            kinds[letter],
            str(teacher.count(letter)),
            str(sum(layer in kept for layer in teacher.layers_of(letter))),
            str(sum(layer not in kept for layer in teacher.layers_of(letter))),
        )
        for letter in used
    ]
    total = ("all", *(str(sum(int(row[column]) for row in counts)) for column in (1, 2, 3)))
    diagram = Diagram(
        name="blocks",
        caption=f"Blocks of the teacher in their order; faded and struck out ones were removed, by {taken_from}",
        blocks=tuple(blocks),
        kinds=tuple((letter, KIND_COLORS[letter], kinds[letter]) for letter in used),
        table=Table(columns=("block", "kind", "fate", "depth score"), rows=tuple(rows)),
    )
    summary = Table(columns=("kind of block", "teacher", "kept", "removed"), rows=(*counts, total))
    return Section(name="blocks", title="Blocks kept and removed", parts=(diagram, summary))
