"""`minitron distill`: a recipe up to the distilled checkpoint, or the teacher's cache alone."""

import argparse

from minitron.cli.recipe_arguments import add_recipe, run_recipe

SUMMARY = "run a recipe up to the distilled checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_recipe(parser)
    parser.add_argument(
        "--cache-teacher",
        action="store_true",
        help="only write the teacher's best tokens on the training text, for distill.teacher.mode=cached",
    )


def run(args: argparse.Namespace) -> None:
    """Distills, or writes the teacher's cache."""
    if not args.cache_teacher:
        run_recipe(args, last="distill")
        return
    from minitron.pipeline.stage_list import CACHE_STAGES

    run_recipe(args, last=None, only=CACHE_STAGES, overrides=("distill.teacher.mode=cached",))
