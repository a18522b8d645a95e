"""What vLLM's parser makes of `vllm serve` lines, as a program: `python vllm_parser.py < request > answer`, in JSON.

The request is a list of lines, each the list of words after `vllm serve`. The answer has one object each: every setting
as text, or the `error` of a line that is refused.
"""

import contextlib
import io
import json
import os
import sys

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
answers_to = os.dup(1)
os.dup2(2, 1)  # what vLLM prints is not the answer

from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args  # noqa: E402
from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: E402


def parse(words: list[str]) -> dict[str, str]:
    """The settings of a line."""
    refusal = io.StringIO()
    try:
        with contextlib.redirect_stderr(refusal):
            settings = make_arg_parser(FlexibleArgumentParser()).parse_args(words)
            validate_parsed_serve_args(settings)
    except SystemExit:
        return {"error": refusal.getvalue()}
    return {name: str(value) for name, value in vars(settings).items()}


if __name__ == "__main__":
    answers = [parse(words) for words in json.load(sys.stdin)]
    with os.fdopen(answers_to, "w") as out:
        json.dump(answers, out)
