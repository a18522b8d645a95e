"""`minitron bench`: generation speed of checkpoints, side by side in one engine."""

import argparse
from typing import get_args

from minitron.cli.arguments import CHECKPOINT_HELP, add_device, add_seed, positive_int
from minitron.cli.output import print_result

SUMMARY = "measure generation speed of checkpoints side by side"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    from minitron.dtypes import StoredDtype

    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=f"{CHECKPOINT_HELP}; ratios are to it")
    parser.add_argument("others", nargs="*", metavar="OTHER", help="checkpoints to measure in turn with it")
    parser.add_argument("--engine", default="transformers", help="transformers or vllm (transformers)")
    parser.add_argument("--input-tokens", type=positive_int, default=64, help="tokens of each prompt (64)")
    parser.add_argument("--output-tokens", type=positive_int, default=64, help="tokens generated for each (64)")
    parser.add_argument("--concurrency", type=positive_int, default=8, help="requests at once (8)")
    parser.add_argument("--repetitions", type=positive_int, default=5, help="times that all are measured (5)")
    parser.add_argument(
        "--dtype", choices=("auto", *get_args(StoredDtype)), default="auto", help="auto: fp32 on CPUs, else as stored"
    )
    parser.add_argument("--enforce-eager", action="store_true", help="vLLM without compilation and CUDA graphs")
    parser.add_argument("--prefix-caching", action="store_true", help="vLLM shares prefixes; these prompts share none")
    parser.add_argument("--engine-python", metavar="PATH", help="Python that has vLLM ($MINITRON_VLLM_PYTHON)")
    add_device(parser, "device of transformers, auto: cuda where there is one (cpu); vLLM's is what it is built for")
    add_seed(parser)


def run(args: argparse.Namespace) -> None:
    """Measures the checkpoints and prints a table, one column each."""
    from minitron.api.bench import bench
    from minitron.report.speed_table import bench_table

    settings = ("engine", "input_tokens", "output_tokens", "concurrency", "repetitions", "dtype")
    flags = ("enforce_eager", "prefix_caching")
    found = bench(
        [args.checkpoint, *args.others],
        settings={name: getattr(args, name) for name in (*settings, *flags, "device", "seed")}
        | {"python": args.engine_python},
    )
    print_result(args, found.to_json(), bench_table(found))
