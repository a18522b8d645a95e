"""A dry run on a terminal: tables of sizes, stages, memory of training and disk, and lines beside them."""

from rich.table import Table

from minitron.dry_run.costs import Cost, PhaseCost
from minitron.dry_run.run import DryRun
from minitron.estimate.devices import find_device
from minitron.report.tables import format_count
from minitron.units import GIB, format_bytes

# Column of the memory table -> the parts that it sums.
MEMORY_COLUMNS = {
    "weights": ("weights_bytes",),
    "grads": ("gradients_bytes",),
    "optim": ("optimizer_bytes",),
    "teacher": ("teacher_bytes",),
    "copies": ("passing_bytes", "gathered_bytes"),
    "activ.": ("activations_bytes",),
    "loss": ("loss_bytes",),
    "other": ("overhead_bytes",),
}


def format_operations(count: float) -> str:
    """Operations in powers of a thousand.

    >>> format_operations(3.2e21), format_operations(5e13)
    ('3.20e21', '5.00e13')
    """
    return f"{count:.2e}".replace("e+", "e") if count else "-"


def format_hours(hours: float | None) -> str:
    """Hours, short ones in minutes, none where they are not known.

    >>> format_hours(None), format_hours(0.05), format_hours(1234.5)
    ('-', '3 min', '1,234 h')
    """
    if hours is None or hours == 0:
        return "-"
    if hours < 1:
        return f"{hours * 60:.0f} min" if hours * 60 >= 1 else "< 1 min"
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"


def sizes_table(found: DryRun) -> Table:
    """The models of a run and the candidates, with their bytes at the budget's workload."""
    sizes = found.sizes
    table = Table(
        title=f"{sizes.num_feasible:,} of the search's {sizes.num_shapes:,} fit {format_bytes(sizes.budget_bytes)} at "
        f"{sizes.sequences} x {sizes.context_tokens:,} tokens; chosen by: {sizes.chosen_by}",
        title_justify="left",
    )
    for column in ("", "blocks", "hidden", "FFN", "Mamba heads", "params", "memory"):
        table.add_column(column, justify="left" if column in ("", "blocks") else "right")
    rows = {"teacher": sizes.teacher}
    if sizes.source.params != sizes.teacher.params:
        rows["after depth"] = sizes.source
    rows |= {f"candidate {number}": each for number, each in enumerate(sizes.candidates, start=1)}
    for name, model in rows.items():
        shape = model.shape
        table.add_row(
            name,
            ", ".join(f"{count} {shape.family.block_kinds[kind]}" for kind, count in model.blocks.items()),
            str(shape.hidden_size),
            str(shape.intermediate_size or "-"),
            f"{shape.mamba_num_heads} x {shape.mamba_head_dim}" if shape.mamba_num_heads else "-",
            f"{model.params:,}",
            format_bytes(model.memory.total_bytes),
        )
    return table


def stages_table(found: DryRun) -> Table:
    """The stages in order, each phase of training under its stage, and what they take; estimates."""
    devices = found.devices
    on = "no devices given" if devices is None else f"{devices.count} x {devices.gpu} at {devices.mfu:.0%}"
    table = Table(title=f"Stages, estimated: {on}", title_justify="left")
    for column in ("stage", "what it does", "tokens", "seq_len", "steps", "rate", "operations", "GPU time", "time"):
        table.add_column(column, justify="left" if column in ("stage", "what it does") else "right")
    for stage in found.stages:
        alone = stage.phases[0] if len(stage.phases) == 1 and not stage.phases[0].name else None
        table.add_row(stage.name, stage.does, *(_lengths(alone) if alone else [""] * 4), *_cost(stage.cost))
        for phase in stage.phases if alone is None else ():
            table.add_row("", f"- {phase.name}", *_lengths(phase), *_cost(phase.cost), style="dim")
    table.add_section()
    table.add_row("sum", "", "", "", "", "", *_cost(found.cost), style="bold")
    return table


def training_memory_table(found: DryRun) -> Table | None:
    """Memory of one device in each phase of training, estimated; None without devices."""
    if found.devices is None:
        return None
    visible = format_bytes(find_device(found.devices.gpu).visible_bytes)
    table = Table(title=f"GiB on each {found.devices.gpu}, estimated, of {visible}", title_justify="left")
    for column in ("stage", "batch", *MEMORY_COLUMNS, "total", "verdict"):
        named = column in ("stage", "verdict")
        table.add_column(column, justify="left" if named else "right", no_wrap=column in ("stage", "batch"))
    for stage in found.stages:
        if stage.held is not None:
            blank = [""] * len(MEMORY_COLUMNS)
            table.add_row(stage.name, "", *blank, _gib(stage.held.total_bytes), stage.held.verdict)
        for phase in stage.phases:
            if phase.memory is None:
                continue
            memory = phase.memory.parts
            parts = [_gib(sum(getattr(memory, part) for part in column)) for column in MEMORY_COLUMNS.values()]
            name, batch = f"{stage.name} {phase.name}".strip(), f"{phase.micro_batch_size or 1} x {phase.seq_len:,}"
            table.add_row(name, batch, *parts, _gib(memory.total_bytes), phase.memory.verdict)
    return table


def disk_table(found: DryRun) -> Table:
    """What is written, what of it stays, and the most that is there at once."""
    disk = found.disk
    table = Table(title="Disk, estimated", title_justify="left")
    for column in ("stage", "what", "size", "stays"):
        table.add_column(column, justify="right" if column == "size" else "left")
    for item in disk.items:
        stage = f"{item.stage} {item.part}".strip()
        table.add_row(stage, item.what, format_bytes(item.bytes), "yes" if item.stays else "no")
    table.add_section()
    table.add_row("what stays", "", format_bytes(disk.stays_bytes), "")
    table.add_row("the most at once", "", format_bytes(disk.most_bytes), "", style="bold")
    return table


def closing_lines(found: DryRun) -> list[str]:
    """The commands to type, what is missing or does not fit, and what the numbers rest on."""
    lines = ["To run it:"]
    for step in found.launch:
        for number, command in enumerate(step.commands):
            either = "or " if number or step.alternative else ""
            lines.append(f"  {either}{command}")
    if not found.weights_are_there:
        lines.append(f"missing: weights of the teacher in {found.teacher}")
    lines += [f"missing: {path}" for path in found.missing]
    lines += [f"warning: {warning}" for warning in found.warnings]
    lines += [f"note: {note}" for note in found.assumptions]
    return lines


def _cost(cost: Cost) -> tuple[str, str, str]:
    return format_operations(cost.operations), format_hours(cost.gpu_hours), format_hours(cost.hours)


def _lengths(phase: PhaseCost) -> list[str]:
    schedule = phase.schedule
    return [
        format_count(phase.tokens),
        f"{phase.seq_len:,}",
        "" if schedule is None else f"{schedule.steps:,}",
        "" if schedule is None else str(schedule.learning_rate),
    ]


def _gib(count: int) -> str:
    return f"{count / GIB:.1f}"
