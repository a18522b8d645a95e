"""`minitron fit`: whether a model fits a memory budget, and how it would be served."""

import argparse
from typing import TYPE_CHECKING, get_args

from minitron.cli.arguments import CONFIG_HELP, non_negative_float, positive_float, positive_int
from minitron.cli.output import Shown, print_result

if TYPE_CHECKING:
    from minitron.estimate.serving.workload import Workload

SUMMARY = "say whether a model fits a memory budget"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("model", metavar="MODEL_OR_CONFIG", help=CONFIG_HELP)
    _add_device(parser)
    _add_workload(parser)
    parser.add_argument("--input-tokens", type=positive_int, help="with --output-tokens, also predict throughput")
    parser.add_argument("--output-tokens", type=positive_int, help="with --input-tokens, also predict throughput")


def _add_device(parser: argparse.ArgumentParser) -> None:
    from minitron.estimate.devices import DEVICES

    parser.add_argument(
        "--gpu",
        metavar="GPU",
        help=f"{', '.join(DEVICES)}, a device of this machine as cuda:0, or this: its first GPU, else its CPU (a10g)",
    )
    parser.add_argument("--memory-gib", type=positive_float, help="memory in GiB, in place of --gpu")
    parser.add_argument("--bandwidth-gb-s", type=positive_float, help="peak bandwidth of that GPU, 10^9 bytes/s")
    parser.add_argument("--bf16-tflops", type=positive_float, help="its peak dense bf16 rate, 10^12/s")
    parser.add_argument("--utilization", type=float, help="fraction of GPU memory to use (plain 0.95, vllm 0.92)")
    parser.add_argument("--reserved-gib", type=non_negative_float, default=0.0, help="GiB set aside for others (0)")


def _add_workload(parser: argparse.ArgumentParser) -> None:
    from minitron.dtypes import CacheDtype, WeightsDtype

    parser.add_argument(
        "--workspace-gib", type=non_negative_float, help="GiB for activations and logits (plain 0, vllm an estimate)"
    )
    parser.add_argument("--context", type=positive_int, default=131072, help="tokens a sequence (131072)")
    parser.add_argument("--sequences", type=positive_int, default=1, help="sequences at once (1)")
    parser.add_argument("--weights", choices=get_args(WeightsDtype), help="precision (a folder's as stored, else bf16)")
    for what, default in (("kv", "bf16"), ("ssm", "fp32"), ("conv", "bf16")):
        parser.add_argument(f"--{what}", choices=get_args(CacheDtype), default=default, help=f"precision ({default})")
    parser.add_argument(
        "--accounting", choices=("plain", "vllm"), default="plain", help="as stored, or in vLLM's cache blocks (plain)"
    )
    parser.add_argument("--max-num-seqs", type=positive_int, default=256, help="vLLM's (256)")
    parser.add_argument("--max-num-batched-tokens", type=positive_int, default=2048, help="vLLM's (2048)")
    parser.add_argument("--block-size", type=positive_int, default=16, help="vLLM's: 16 on CUDA, 128 on CPUs (16)")
    parser.add_argument(
        "--prefix-caching",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="vLLM shares prefixes, with three Mamba states a sequence in place of one (on)",
    )


def run(args: argparse.Namespace) -> None:
    """Prints whether the model fits the memory."""
    from minitron.api.fit import choose_device
    from minitron.checkpoints.hub import find_config
    from minitron.errors import MinitronError
    from minitron.estimate.serving.model_fit import Memory, fit_model
    from minitron.estimate.serving.workload import Lengths
    from minitron.report.tables import fit_table

    device = choose_device(args.gpu, args.memory_gib, bandwidth_gb_s=args.bandwidth_gb_s, bf16_tflops=args.bf16_tflops)
    memory = Memory(device=device, utilization=args.utilization, reserved_gib=args.reserved_gib)
    lengths = None
    if args.input_tokens is not None or args.output_tokens is not None:
        if args.input_tokens is None or args.output_tokens is None:
            raise MinitronError("--input-tokens and --output-tokens are given together")
        lengths = Lengths(input_tokens=args.input_tokens, output_tokens=args.output_tokens)
    result = fit_model(find_config(args.model), _workload(args), memory, weights=args.weights, lengths=lengths)
    shown: list[Shown] = [fit_table(result)]
    if result.by_vllm:
        shown += _serve_lines(result.serve, fits=result.report.fits, context=args.context)
    print_result(args, result.to_json(), *shown)


def _workload(args: argparse.Namespace) -> "Workload":
    from minitron.estimate.serving.workload import Workload
    from minitron.recipe.load import make_section

    engine = ("max_num_seqs", "max_num_batched_tokens", "block_size", "prefix_caching")
    given = {
        "context_tokens": args.context,
        "sequences": args.sequences,
        "kv_dtype": args.kv,
        "ssm_dtype": args.ssm,
        "conv_dtype": args.conv,
        "workspace_gib": args.workspace_gib,
        "accounting": args.accounting,
        "engine": {name: getattr(args, name) for name in engine},
    }
    return make_section(Workload, given)


def _serve_lines(command: str | None, *, fits: bool, context: int) -> list[str]:
    if command is None:
        return ["no `vllm serve` command starts within this budget"]
    if fits:
        return [command]
    return [f"{context:,} tokens may not start; this command does:", command]
