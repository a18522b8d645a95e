"""Tables of a forecast: shapes, stages, memory of training, disk."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from minitron.report.tables import BLOCK_LABELS, format_count
from minitron.units import GIB, format_bytes

# What of the memory has a column, and what it is made of.
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


def shapes_table(found: Mapping[str, Any]) -> Table:
    """The models of a run and the candidates, with their bytes at the budget's workload."""
    shapes = found["shapes"]
    budget = format_bytes(shapes["budget_bytes"])
    table = Table(
        title=f"{shapes['num_feasible']:,} of the search's {shapes['num_shapes']:,} fit {budget} at "
        f"{shapes['sequences']} x {shapes['context_tokens']:,} tokens; chosen by: {shapes['chosen_by']}",
        title_justify="left",
    )
    for column in ("", "blocks", "hidden", "FFN", "Mamba heads", "params", "memory"):
        table.add_column(column, justify="left" if column in ("", "blocks") else "right")
    rows = {"teacher": shapes["teacher"]}
    if shapes["source"]["params"] != shapes["teacher"]["params"]:
        rows["after depth"] = shapes["source"]
    rows |= {f"candidate {number}": each for number, each in enumerate(shapes["candidates"], start=1)}
    for name, model in rows.items():
        sizes = model["shape"]
        heads = f"{sizes['mamba_num_heads']} x {sizes['mamba_head_dim']}" if sizes["mamba_num_heads"] else "-"
        table.add_row(
            name,
            ", ".join(f"{count} {BLOCK_LABELS[kind]}" for kind, count in model["blocks"].items()),
            str(sizes["hidden_size"]),
            str(sizes["intermediate_size"] or "-"),
            heads,
            f"{model['params']:,}",
            format_bytes(model["memory"]["total_bytes"]),
        )
    return table


def stages_table(found: Mapping[str, Any]) -> Table:
    """The stages in order, each training under its stage, and what they take; estimates."""
    devices = found["devices"]
    on = "no devices given" if devices is None else f"{devices['count']} x {devices['gpu']} at {devices['mfu']:.0%}"
    table = Table(title=f"Stages, estimated: {on}", title_justify="left")
    for column in ("stage", "what it does", "tokens", "block", "steps", "rate", "operations", "GPU time", "time"):
        table.add_column(column, justify="left" if column in ("stage", "what it does") else "right")
    for stage in found["stages"]:
        trainings = stage["trainings"]
        alone = trainings[0] if len(trainings) == 1 and not trainings[0]["name"] else None
        cost = (format_operations(stage["operations"]), format_hours(stage["gpu_hours"]), format_hours(stage["hours"]))
        table.add_row(stage["name"], stage["does"], *(_lengths(alone) if alone else [""] * 4), *cost)
        for each in trainings if alone is None else ():
            took = (format_operations(each["operations"]), format_hours(each["gpu_hours"]), format_hours(each["hours"]))
            table.add_row("", f"- {each['name']}", *_lengths(each), *took, style="dim")
    sums = (format_operations(found["operations"]), format_hours(found["gpu_hours"]), format_hours(found["hours"]))
    table.add_section()
    table.add_row("sum", "", "", "", "", "", *sums, style="bold")
    return table


def training_memory_table(found: Mapping[str, Any]) -> Table | None:
    """Memory of one device in each stage of training, estimated; None without devices."""
    if found["devices"] is None:
        return None
    gpu, visible = found["devices"]["gpu"], format_bytes(found["devices"]["visible_bytes"])
    table = Table(title=f"GiB on each {gpu}, estimated, of {visible}", title_justify="left")
    for column in ("stage", "block", *MEMORY_COLUMNS, "total", "verdict"):
        named = column in ("stage", "verdict")
        table.add_column(column, justify="left" if named else "right", no_wrap=column in ("stage", "block"))
    for stage in found["stages"]:
        if stage.get("holds") is not None:
            held = stage["holds"]
            blank = [""] * len(MEMORY_COLUMNS)
            table.add_row(stage["name"], "", *blank, _gib(held["total_bytes"]), held["verdict"])
        for each in stage["trainings"]:
            memory = each["memory"]
            parts = [_gib(sum(memory[part] for part in column)) for column in MEMORY_COLUMNS.values()]
            name = f"{stage['name']} {each['name']}".strip()
            block = f"{each.get('micro_batch_size', 1)} x {each['seq_len']:,}"
            table.add_row(name, block, *parts, _gib(memory["total_bytes"]), memory["verdict"])
    return table


def disk_table(found: Mapping[str, Any]) -> Table:
    """What is written, what of it stays, and the most that is there at once."""
    disk = found["disk"]
    table = Table(title="Disk, estimated", title_justify="left")
    for column in ("stage", "what", "size", "stays"):
        table.add_column(column, justify="right" if column == "size" else "left")
    for item in disk["items"]:
        stage = f"{item['stage']} {item['part']}".strip()
        table.add_row(stage, item["what"], format_bytes(item["bytes"]), "yes" if item["stays"] else "no")
    table.add_section()
    table.add_row("what stays", "", format_bytes(disk["stays_bytes"]), "")
    table.add_row("the most at once", "", format_bytes(disk["most_bytes"]), "", style="bold")
    return table


def forecast_lines(found: Mapping[str, Any]) -> list[str]:
    """What to type, what is missing or does not fit, and what the numbers rest on."""
    lines = ["To run it:"]
    for step in found["launch"]:
        for number, command in enumerate(step["commands"]):
            either = "or " if number or step["alternative"] else ""
            lines.append(f"  {either}{command}")
    if not found["teacher"]["weights_are_there"]:
        lines.append(f"missing: weights of the teacher in {found['teacher']['folder']}")
    lines += [f"missing: {path}" for path in found["missing"]]
    lines += [f"warning: {warning}" for warning in found["warnings"]]
    lines += [f"note: {note}" for note in found["assumptions"]]
    return lines


def _lengths(training: Mapping[str, Any]) -> list[str]:
    rate = training.get("learning_rate")
    return [
        format_count(training["tokens"]),
        f"{training['seq_len']:,}",
        f"{training['steps']:,}" if "steps" in training else "",
        "" if rate is None else f"{rate:g}",
    ]


def _gib(count: int) -> str:
    return f"{count / GIB:.1f}"
