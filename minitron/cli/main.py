"""The command line's entry point: the parser, logging, and exit codes.

Results go to stdout, logs and progress to stderr. Exit codes: 0 success, 2 something that was given cannot be used (one
line for each fault), 1 anything else. Nothing heavy is imported until a command runs.
"""

import argparse
import importlib
import logging
import sys
import time
import traceback
from collections.abc import Sequence

from minitron.cli.output import is_first_process
from minitron.errors import MinitronError, one_line

EXIT_FAILURE = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
# Seconds that processes of a launch behind the first one leave to it, whose end makes the launcher end them.
FIRST_SPEAKS_S = 10.0

# Command -> its module in `commands`, which has SUMMARY, add_arguments(parser) and run(args).
COMMANDS = {
    "init": "init",
    "run": "run",
    "search": "search",
    "forecast": "forecast",
    "distill": "distill",
    "status": "status",
    "report": "publishing.report",
    "fit": "fit",
    "check": "check",
    "verify": "verify",
    "score": "score",
    "vocabulary": "vocabulary",
    "prune": "prune",
    "plan": "plan",
    "quantize": "quantize",
    "merge": "merge",
    "extract": "extract",
    "export": "export",
    "push": "publishing.push",
    "bench": "bench",
    "eval": "evaluate",
}

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Args:
        argv: Words of the command line without the program's name; those of the process when None.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    args = build_parser(only=next((word for word in words if word in COMMANDS), "")).parse_args(words)
    _configure_logging(verbose=args.verbose)
    try:
        args.run(args)
    except MinitronError as error:
        _leave_the_word_to_the_first()
        for line in str(error).splitlines():
            print(f"minitron: {line}", file=sys.stderr)
        logger.info("raised here", exc_info=True)
        return EXIT_USER_ERROR
    except OSError as error:
        _leave_the_word_to_the_first()
        _report_os_error(error)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        if is_first_process():
            print("minitron: interrupted; finished stages are kept, run the command again to resume", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception:  # a bug: its traceback is what a report needs
        _leave_the_word_to_the_first()
        traceback.print_exc()
        return EXIT_FAILURE
    return 0


def build_parser(*, only: str | None = None) -> argparse.ArgumentParser:
    """The parser of all commands.

    Args:
        only: Add arguments to this command alone, which keeps start-up short; to every command when None.
    """
    parser = argparse.ArgumentParser(
        prog="minitron",
        description="Prune hybrid Mamba-2/attention/MLP language models to a memory budget and distill them back.",
    )
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module_name in COMMANDS.items():
        module = importlib.import_module(f"minitron.cli.commands.{module_name}")
        command = commands.add_parser(
            name, help=module.SUMMARY, description=module.SUMMARY[0].upper() + module.SUMMARY[1:]
        )
        command.add_argument("--json", action="store_true", help="print one JSON object")
        command.add_argument("-v", "--verbose", action="store_true", help="log what is done, on stderr")
        command.set_defaults(run=module.run)
        if only in (None, name):
            module.add_arguments(command)
    return parser


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from minitron import __version__

        print(f"minitron {__version__}")
        parser.exit()


def _leave_the_word_to_the_first() -> None:
    """Waits in the other processes of a launch: what all fail with is said once, what one alone does is said late."""
    if not is_first_process():
        time.sleep(FIRST_SPEAKS_S)


def _report_os_error(error: OSError) -> None:
    """One line where the environment is at fault: a path that cannot be used, or a full disk; else a traceback."""
    from minitron.artifacts.disk_space import FULL

    if error.filename is None and error.errno not in FULL:
        traceback.print_exc()
    else:
        print(f"minitron: {one_line(str(error))}", file=sys.stderr)
        logger.info("raised here", exc_info=True)


def _configure_logging(*, verbose: bool) -> None:
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
