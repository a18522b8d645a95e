"""`minitron distill`: a recipe up to the distilled checkpoint, or the teacher's cache alone."""

import argparse

from minitron.cli.output import print_result
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
    parser.add_argument(
        "--student",
        metavar="CHECKPOINT",
        help="distill this checkpoint, folder or name on the hub, in place of a cut of the teacher",
    )


def run(args: argparse.Namespace) -> None:
    """Distills, or writes the teacher's cache."""
    if args.student is not None:
        _distill_student(args)
        return
    if not args.cache_teacher:
        run_recipe(args, last="distill")
        return
    from minitron.pipeline.stage_list import CACHE_STAGES

    run_recipe(args, last=None, only=CACHE_STAGES, overrides=("distill.teacher.mode=cached",))


def _distill_student(args: argparse.Namespace) -> None:
    from minitron.api.run import distill_student
    from minitron.errors import MinitronError
    from minitron.recipe.load import load_recipe

    if args.cache_teacher or args.first is not None:
        raise MinitronError("--student must be given without --cache-teacher and --from, which are of the run's stages")
    student = distill_student(load_recipe(args.recipe, tuple(args.set)), args.student, args.output)
    print_result(args, {"student": str(student)}, f"student: {student}")
