"""`minitron search`: a recipe up to its candidates."""

import argparse

from minitron.cli.recipe_arguments import add_recipe, run_recipe

SUMMARY = "run a recipe up to its candidates"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_recipe(parser)


def run(args: argparse.Namespace) -> None:
    """Scores and searches."""
    run_recipe(args, last="search")
