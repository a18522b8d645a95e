"""`minitron forecast`: KL against bytes before anything is trained, and tokens to a KL after a distillation."""

import argparse
from dataclasses import asdict
from pathlib import Path

from minitron.cli.arguments import add_overrides, positive_float
from minitron.cli.output import Shown, print_result

SUMMARY = "predict KL against bytes from a few measured cuts, and tokens to a KL"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="YAML file")
    parser.add_argument("--output", type=Path, metavar="RUN", help="run folder (runs/NAME)")
    add_overrides(parser, "override a setting, as in forecast.mixes=12 or search.hidden_size=[160,128]")
    parser.add_argument("--shape", metavar="JSON_OR_FILE", help="also predict this shape")
    parser.add_argument(
        "--kl",
        type=positive_float,
        metavar="NATS",
        help="also forecast tokens and hours to this KL on validation text, from the run's distillation",
    )
    parser.add_argument(
        "--distilled",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="other runs of the same student, on other numbers of tokens, that count for --kl",
    )


def run(args: argparse.Namespace) -> None:
    """Measures, fits and predicts."""
    from minitron.api.forecast import forecast_run
    from minitron.api.shapes import read_shape
    from minitron.cli.recipe_arguments import tell
    from minitron.recipe.load import load_recipe

    recipe = load_recipe(args.recipe, tuple(args.set))
    sizes = None if args.shape is None else read_shape(args.shape)
    found = forecast_run(recipe, args.output, kl=args.kl, sizes=sizes, distilled=args.distilled, on_outcome=tell)

    from minitron.pipeline.run_folder import RunFolder
    from minitron.report.forecast_table import axes_table, mixes_table, recovery_lines

    shown: list[Shown] = [axes_table(found), mixes_table(found)]
    if found.best is None:
        shown.append("no shape within the limits is inside what was measured")
    if found.recovery is not None:
        shown += recovery_lines(found.recovery)
    run_folder = RunFolder(args.output or Path("runs") / recipe.name)
    print_result(args, asdict(found), *shown, f"picture: {run_folder.forecast_picture}")
