"""`minitron vocabulary`: cut a checkpoint's vocabulary to the tokens that a text uses."""

import argparse

from minitron.cli.arguments import add_checkpoint, add_data, add_output, positive_float, positive_int, seed
from minitron.cli.output import print_result

SUMMARY = "keep the tokens that a text uses, and no others"
# Ways to say how many tokens are kept, one of which is given.
MEASURES = ("size", "coverage", "min-count")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    add_checkpoint(parser)
    add_data(parser, "text whose tokens are counted", required=True)
    add_measures(parser, "--")
    add_output(parser)
    parser.add_argument("--multiple-of", type=positive_int, help="the kept tokens' number is a multiple of this (64)")
    parser.add_argument("--tokens", type=positive_int, help="count so many tokens of the text (all)")
    parser.add_argument("--shard-gib", type=positive_float, default=4.0, help="largest file of weights (4)")
    parser.add_argument("--seed", type=seed, default=0, help="which text is counted with --tokens (0)")


def add_measures(parser: argparse.ArgumentParser, prefix: str) -> None:
    """Adds the options that say how many tokens are kept."""
    parser.add_argument(f"{prefix}size", type=positive_int, metavar="N", help="tokens that are kept, as 24576")
    parser.add_argument(
        f"{prefix}coverage", type=positive_float, metavar="SHARE", help="share of the text's tokens, as 0.9999"
    )
    parser.add_argument(f"{prefix}min-count", type=positive_int, metavar="N", help="keep what occurs so often")


def measures(args: argparse.Namespace, prefix: str = "") -> dict[str, object]:
    """The settings that those options give."""
    names = (name.replace("-", "_") for name in MEASURES)
    given = {name: getattr(args, prefix + name) for name in names}
    return {name: value for name, value in given.items() if value is not None}


def run(args: argparse.Namespace) -> None:
    """Cuts the vocabulary."""
    from minitron.api.checks import require_checkpoint, require_output, require_sources, require_text_tokens
    from minitron.checkpoints.hub import find_checkpoint
    from minitron.recipe.load import make_section
    from minitron.recipe.prune import VocabularySection

    given = {"multiple_of": args.multiple_of, "tokens": args.tokens}
    settings = {**measures(args), **{name: value for name, value in given.items() if value is not None}}
    section = make_section(VocabularySection, {"data": args.data, **settings})
    folder = find_checkpoint(args.checkpoint)
    opened = require_checkpoint(folder)
    require_sources(section.data, folder)
    require_text_tokens(opened, section.data)
    require_output(args.output)

    from minitron.api.vocabulary import cut_checkpoint_vocabulary
    from minitron.report.vocabulary_table import vocabulary_table

    cut = cut_checkpoint_vocabulary(folder, args.output, section, seed=args.seed, shard_gib=args.shard_gib)
    line = f"{cut.record.params_after:,} parameters in {cut.output}"
    print_result(args, cut.to_json(), vocabulary_table(cut.record), line)
