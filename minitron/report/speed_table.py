"""Tables of generation speed."""

from collections.abc import Callable

from rich.table import Table

from minitron.evaluate.speed.bench import Bench
from minitron.evaluate.speed.wave import Speed
from minitron.units import format_bytes


def bench_table(bench: Bench) -> Table:
    """Checkpoints side by side, one column each: medians, and in brackets the smallest and largest of all waves."""
    settings = bench.settings
    title = (
        f"{bench.engine}, {bench.device}, {bench.dtype}: {settings.concurrency} requests of {settings.input_tokens} + "
        f"{settings.output_tokens} tokens, {settings.repetitions} times"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in bench.speeds:
        table.add_column(name, justify="right", overflow="fold")
    rows: dict[str, Callable[[Speed], str]] = {
        "output tokens/s": lambda speed: speed.tokens_per_s.text(",.1f"),
        "time to first token, ms": lambda speed: speed.first_token_s.text(",.1f", scale=1e3),
        "inter-token latency, ms": lambda speed: speed.inter_token_s.text(",.2f", scale=1e3),
        "output tokens/s, ratio": lambda speed: speed.ratio.text(".2f"),
        "peak memory": lambda speed: "" if speed.peak_bytes is None else format_bytes(speed.peak_bytes),
    }
    for label, cell in rows.items():
        table.add_row(label, *(cell(speed) for speed in bench.speeds.values()))
    if bench.rates is not None:
        table.add_row("predicted output tokens/s", *(f"{bench.predicted[name]:,.1f}" for name in bench.speeds))
        shares = (speed.tokens_per_s.median / bench.predicted[name] for name, speed in bench.speeds.items())
        table.add_row("measured of the predicted", *(f"{share:.0%}" for share in shares))
    return table
