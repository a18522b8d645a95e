"""The command line: verbs, their arguments, and what they print. Results go to stdout, everything else to stderr."""

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from minitron import __version__
from minitron.dtypes import CacheDtype, StoredDtype
from minitron.errors import MinitronError
from minitron.estimate.devices import DEVICES
from minitron.estimate.precision import WEIGHT_FORMATS
from minitron.estimate.serving.workload import ACCOUNTINGS
from minitron.units import gib_to_bytes

EXIT_USER_ERROR = 2
EXIT_FAILURE = 1
PLAIN_WIDTH = 120  # columns of a table that goes into a file or a pipe

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb and returns the exit code: 0 success, 2 the user's error (a line per fault), 1 anything else.

    With --verbose the place of a fault is logged too.
    """
    args = _parser().parse_args(argv)
    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False)],
    )
    try:
        args.verb(args)
    except ValueError as error:
        for line in str(error).splitlines():
            print(f"minitron: {line}", file=sys.stderr)
        logger.info("where it was found", exc_info=True)
        return EXIT_USER_ERROR
    except OSError as error:
        print(f"minitron: {error}", file=sys.stderr)
        logger.info("where it was found", exc_info=True)
        return EXIT_FAILURE
    except KeyboardInterrupt:
        print("minitron: interrupted; finished stages are kept, run again to go on", file=sys.stderr)
        return 130
    return 0


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text}")
    return value


def _size(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number that is not negative, got {text}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minitron", description="Prune hybrid language models to a memory budget and distill them back."
    )
    parser.add_argument("--version", action="version", version=f"minitron {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object")
    common.add_argument("-v", "--verbose", action="store_true", help="log what stages do, on stderr")

    for name, last, summary in (
        ("run", None, "run a recipe: score, search, prune, distill, evaluate, report"),
        ("search", "search", "run a recipe up to its candidates"),
        ("distill", "distill", "run a recipe up to the distilled checkpoint"),
    ):
        verb = verbs.add_parser(name, parents=[common], help=summary, description=summary.capitalize())
        verb.add_argument("recipe", type=Path, metavar="RECIPE")
        verb.add_argument("--output", type=Path, metavar="DIR", help="run folder (runs/NAME)")
        verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override, as in seed=1")
        verb.add_argument("--from", dest="first", metavar="STAGE", help="run this stage and later ones anew")
        if last is None:
            verb.add_argument("--to", dest="last", metavar="STAGE", help="stop after this stage")
            verb.add_argument(
                "--dry-run",
                action="store_true",
                help="say what the run would do, take and need, from the recipe and the teacher's config.json alone",
            )
        verb.set_defaults(verb=_run, last=last, cache_teacher=False, dry_run=False)
        if name == "distill":
            verb.add_argument(
                "--cache-teacher",
                action="store_true",
                help="only write the teacher's best tokens on the training text, for distill.teacher.mode=cached",
            )

    fit = verbs.add_parser("fit", parents=[common], help="say whether a model fits a memory budget")
    fit.add_argument("model", type=Path, metavar="MODEL_OR_CONFIG", help="checkpoint folder or config.json")
    fit.add_argument("--gpu", metavar="GPU", help=f"{', '.join(DEVICES)}, or a device of this machine as cuda:0 (a10g)")
    fit.add_argument("--memory-gib", type=_positive_float, help="memory in GiB, in place of --gpu")
    fit.add_argument("--bandwidth-gb-s", type=_positive_float, help="peak bandwidth of that GPU, 10^9 bytes/s")
    fit.add_argument("--bf16-tflops", type=_positive_float, help="its peak dense bf16 rate, 10^12/s")
    fit.add_argument("--utilization", type=float, help="share of it that may be used (plain 0.95, vllm 0.92)")
    fit.add_argument("--reserved-gib", type=_size, default=0.0, help="GiB set aside for others (0)")
    fit.add_argument("--workspace-gib", type=_size, help="GiB for activations and logits (plain 0, vllm an estimate)")
    fit.add_argument("--context", type=_positive_int, default=131072, help="tokens a sequence (131072)")
    fit.add_argument("--sequences", type=_positive_int, default=1, help="sequences at once (1)")
    fit.add_argument("--weights", choices=list(WEIGHT_FORMATS), help="precision (a folder's as stored, else bf16)")
    for what, default in (("kv", "bf16"), ("ssm", "fp32")):
        fit.add_argument(f"--{what}", choices=get_args(CacheDtype), default=default, help=f"precision ({default})")
    fit.add_argument(
        "--accounting", choices=ACCOUNTINGS, default="plain", help="as stored, or in vLLM's blocks (plain)"
    )
    fit.add_argument("--max-num-seqs", type=_positive_int, default=256, help="vLLM's (256)")
    fit.add_argument("--max-num-batched-tokens", type=_positive_int, default=2048, help="vLLM's (2048)")
    fit.add_argument("--prefix-caching", action="store_true", help="vLLM shares prefixes")
    fit.add_argument("--input-tokens", type=_positive_int, help="with --output-tokens, also predict throughput")
    fit.add_argument("--output-tokens", type=_positive_int, help="with --input-tokens, also predict throughput")
    fit.set_defaults(verb=_fit)

    score = verbs.add_parser("score", parents=[common], help="calibrate a checkpoint and write its scores")
    score.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    score.add_argument("--data", required=True, metavar="PATH", help=".txt, .jsonl, .parquet or a dataset's name")
    score.add_argument("--output", type=Path, required=True, metavar="DIR")
    score.add_argument("--samples", type=_positive_int, default=1024, help="samples of text (1024)")
    score.add_argument("--seq-len", type=_positive_int, default=4096, help="tokens a sample (4096)")
    score.add_argument("--batch-size", type=_positive_int, default=8, help="samples in one pass (8)")
    score.add_argument("--layerwise", action="store_true", help="hold one block in memory at a time")
    score.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting of a recipe's score section, as in depth.scorer=logit_mse or packed=false",
    )
    score.add_argument("--seed", type=int, default=0)
    score.add_argument("--device", default="cpu")
    score.set_defaults(verb=_score)

    prune = verbs.add_parser("prune", parents=[common], help="cut a checkpoint to a shape by scores")
    prune.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    prune.add_argument("--scores", type=Path, required=True, metavar="DIR", help="folder written by score")
    prune.add_argument("--shape", required=True, metavar="JSON_OR_FILE", help='as in {"hidden_size": 4480}')
    prune.add_argument("--output", type=Path, required=True, metavar="DIR")
    prune.add_argument("--dtype", choices=get_args(StoredDtype), help="precision to write (each tensor's own)")
    prune.add_argument("--shard-gib", type=_positive_float, default=4.0, help="largest file of weights (4)")
    prune.add_argument("--drop-mtp", action="store_true", help="leave out layers that predict further tokens")
    prune.add_argument("--compensate", metavar="DATA", help="scale norms for removed channels, measured on this text")
    prune.add_argument("--repair", metavar="DATA", help="refit the projections on this text, in closed form")
    prune.add_argument("--samples", type=_positive_int, help="samples of such text (128)")
    prune.add_argument("--seq-len", type=_positive_int, help="tokens a sample (4096)")
    prune.add_argument("--ridge", type=_positive_float, help="pull towards the sliced weights (0.01)")
    prune.add_argument("--layerwise", action="store_true", help="hold one block in memory at a time for these two")
    prune.add_argument("--device", default="cpu", help="where these two run (cpu)")
    prune.set_defaults(verb=_prune)

    plan = verbs.add_parser("plan", parents=[common], help="show what a plan of pruning keeps, or how two plans differ")
    plan.add_argument("plan", type=Path, metavar="PLAN", help="a plan file, or a folder that holds one")
    plan.add_argument("other", type=Path, nargs="?", metavar="OTHER", help="a second plan for the same source")
    plan.set_defaults(verb=_plan)

    quantize = verbs.add_parser("quantize", parents=[common], help="quantize a checkpoint's weights with ModelOpt")
    quantize.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    quantize.add_argument("--format", required=True, help="fp8, int8, int8-smoothquant or int4-awq")
    quantize.add_argument("--data", required=True, metavar="PATH", help="calibration text")
    quantize.add_argument("--output", type=Path, required=True, metavar="DIR")
    quantize.add_argument("--samples", type=_positive_int, default=64, help="packed samples of text (64)")
    quantize.add_argument("--seq-len", type=_positive_int, default=512, help="tokens a sample (512)")
    quantize.add_argument("--seed", type=int, default=0)
    quantize.add_argument("--device", default="cpu")
    quantize.set_defaults(verb=_quantize)

    merge = verbs.add_parser("merge", parents=[common], help="interpolate checkpoints of one shape")
    merge.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT", help="two or more")
    merge.add_argument("--output", type=Path, required=True, metavar="DIR")
    merge.add_argument(
        "--weights", type=float, nargs="+", metavar="WEIGHT", help="one a checkpoint, of sum 1 (equal ones)"
    )
    merge.set_defaults(verb=_merge)

    evaluate = verbs.add_parser("eval", parents=[common], help="measure a checkpoint")
    evaluate.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    evaluate.add_argument("--data", required=True, metavar="PATH", help="held-out text")
    evaluate.add_argument("--teacher", type=Path, metavar="CHECKPOINT", help="also measure the KL to it")
    evaluate.add_argument("--task", metavar="PATH", help=".jsonl with prompt and answer, for exact match")
    evaluate.add_argument("--max-new-tokens", type=_positive_int, default=256, help="tokens an answer may take (256)")
    evaluate.add_argument("--blocks", type=_positive_int, default=64, help="packed blocks of text (64)")
    evaluate.add_argument("--seq-len", type=_positive_int, default=1024, help="tokens a block (1024)")
    evaluate.add_argument(
        "--context", type=_positive_int, default=131072, help="tokens that the bytes are for (131072)"
    )
    evaluate.add_argument("--device", default="cpu")
    evaluate.set_defaults(verb=_evaluate)
    return parser


def _run(args: argparse.Namespace) -> None:
    from minitron.recipe.load import load_recipe

    overrides = (*args.set, "distill.teacher.mode=cached") if args.cache_teacher else tuple(args.set)
    recipe = load_recipe(args.recipe, overrides)
    if args.dry_run:
        _forecast(args, recipe)
        return

    from minitron.pipeline.run_folder import read_candidates, read_metrics
    from minitron.pipeline.runner import CACHING, STAGE_NAMES, run_pipeline, stages_of

    names = [stage.name for stage in stages_of(recipe)]
    for option in (args.first, args.last):
        if option is not None and option not in names:
            raise MinitronError(f"a stage must be one of {', '.join(names)}, got {option!r}")
    folder = args.output or Path("runs") / recipe.name
    outcomes = []
    only = CACHING if args.cache_teacher else STAGE_NAMES
    for outcome in run_pipeline(recipe, folder, first=args.first, last=args.last, only=only):
        note = "finished before, skipped" if outcome.skipped else f"done in {outcome.seconds:.1f} s"
        print(f"{outcome.name:<13} {note}", file=sys.stderr, flush=True)
        outcomes.append(outcome)
    result: dict[str, Any] = {"folder": str(folder), "stages": [asdict(outcome) for outcome in outcomes]}
    tables: list[Table | str] = []
    from minitron.report.tables import candidates_table, metrics_table

    reached = {outcome.name for outcome in outcomes}
    if "search" in reached:
        result["search"] = read_candidates(folder / "search")
        tables.append(candidates_table(result["search"]))
    if "evaluate" in reached:
        budget = recipe.budget
        result["metrics"] = read_metrics(folder / "evaluate")
        tables.append(
            metrics_table(result["metrics"], budget_bytes=budget.budget_bytes, context_tokens=budget.context_tokens)
        )
    if "cache" in reached:
        tables.append(f"teacher's cache: {folder / 'cache'}")
    if "distill" in reached:
        tables.append(f"student: {folder / 'distill' / 'checkpoint'}")
    if "report" in reached:
        tables.append(f"picture: {folder / 'report' / 'summary.png'}")
    _print(args, result, *tables)


def _forecast(args: argparse.Namespace, recipe: Any) -> None:
    from minitron.dry_run.run import forecast_run
    from minitron.report.dry_run_tables import (
        disk_table,
        forecast_lines,
        shapes_table,
        stages_table,
        training_memory_table,
    )

    if args.first is not None or args.last is not None:
        raise MinitronError("--dry-run is of the whole run, it takes neither --from nor --to")
    arguments = [str(args.recipe), *(word for override in args.set for word in ("--set", override))]
    arguments += [] if args.output is None else ["--output", str(args.output)]
    found = forecast_run(recipe, arguments)
    tables = (shapes_table(found), stages_table(found), training_memory_table(found), disk_table(found))
    _print(args, found, *(table for table in tables if table is not None), *forecast_lines(found))


def _fit(args: argparse.Namespace) -> None:
    from minitron.api.fit import Memory, choose_device, fit_model
    from minitron.estimate.serving.throughput import Lengths
    from minitron.estimate.serving.workload import Engine, Workload
    from minitron.report.tables import fit_table

    workload = Workload(
        context_tokens=args.context,
        sequences=args.sequences,
        kv_dtype=args.kv,
        ssm_dtype=args.ssm,
        workspace_bytes=None if args.workspace_gib is None else gib_to_bytes(args.workspace_gib),
        accounting=args.accounting,
        engine=Engine(
            max_num_seqs=args.max_num_seqs,
            max_num_batched_tokens=args.max_num_batched_tokens,
            prefix_caching=args.prefix_caching,
        ),
    )
    device = choose_device(args.gpu, args.memory_gib, bandwidth_gb_s=args.bandwidth_gb_s, bf16_tflops=args.bf16_tflops)
    memory = Memory(device=device, utilization=args.utilization, reserved_gib=args.reserved_gib)
    lengths = None
    if args.input_tokens is not None or args.output_tokens is not None:
        if args.input_tokens is None or args.output_tokens is None:
            raise MinitronError("--input-tokens and --output-tokens are given together")
        lengths = Lengths(input_tokens=args.input_tokens, output_tokens=args.output_tokens)
    result = fit_model(args.model, workload, memory, weights=args.weights, lengths=lengths)
    shown: list[Table | str] = [fit_table(result)]
    if "serve" in result:
        shown += _serve_lines(result, context=args.context)
    _print(args, result, *shown)


def _serve_lines(result: dict[str, Any], *, context: int) -> list[str]:
    if result["serve"] is None:
        return ["no `vllm serve` line surely starts"]
    if result["fits"]:
        return [result["serve"]]
    return [f"{context:,} tokens may not start; what surely does:", result["serve"]]


def _score(args: argparse.Namespace) -> None:
    from minitron.recipe.load import make_section
    from minitron.recipe.score import ScoreSection

    given = {
        "data": [{"path": args.data}],
        "samples": args.samples,
        "seq_len": args.seq_len,
        "batch_size": args.batch_size,
        "layerwise": args.layerwise,
    }
    section = make_section(ScoreSection, given, tuple(args.set))

    from minitron.api.checkpoints import score_checkpoint
    from minitron.report.tables import scores_table

    summary = score_checkpoint(args.checkpoint, section, output=args.output, seed=args.seed, device=args.device)
    tables: list[Table | str] = [scores_table(summary), f"scores and pictures: {args.output}"]
    _print(args, {"output": str(args.output), "blocks": summary}, *tables)


def _prune(args: argparse.Namespace) -> None:
    from minitron.recipe.load import make_section
    from minitron.recipe.prune import PruneSection

    if args.compensate is None and args.repair is None and (args.samples or args.seq_len or args.layerwise):
        raise MinitronError("--samples, --seq-len and --layerwise are for --compensate and --repair")
    if args.repair is None and args.ridge is not None:
        raise MinitronError("--ridge is for --repair")
    text = {"samples": args.samples or 128, "seq_len": args.seq_len or 4096, "layerwise": args.layerwise}
    given: dict[str, Any] = {
        "weights_dtype": args.dtype,
        "shard_gib": args.shard_gib,
        "drop_mtp": args.drop_mtp,
    }
    if args.compensate is not None:
        given["compensate"] = {"data": [{"path": args.compensate}], **text}
    if args.repair is not None:
        given["repair"] = {"data": [{"path": args.repair}], **text, "ridge": args.ridge or 1e-2}
    section = make_section(PruneSection, given)

    from minitron.api.checkpoints import prune_to_shape

    written = prune_to_shape(
        args.checkpoint,
        scores=args.scores,
        shape=args.shape,
        output=args.output,
        section=section,
        device=args.device,
    )
    _print(
        args,
        {"output": str(written.folder), "params": written.params, "shape": asdict(written.shape)},
        f"{written.params:,} parameters in {written.folder}",
    )


def _plan(args: argparse.Namespace) -> None:
    from minitron.api.checkpoints import compare_plans, show_plan
    from minitron.report.plan_tables import plan_diff_table, plan_table

    if args.other is None:
        described = show_plan(args.plan)
        _print(args, described, plan_table(described))
    else:
        difference = compare_plans(args.plan, args.other)
        _print(args, difference, plan_diff_table(difference))


def _quantize(args: argparse.Namespace) -> None:
    from minitron.integrations.modelopt.quantize.export import QuantizeSettings, quantize_checkpoint
    from minitron.report.tables import quantized_table

    settings = QuantizeSettings(
        format=args.format,
        data=args.data,
        samples=args.samples,
        seq_len=args.seq_len,
        device=args.device,
        seed=args.seed,
    )
    result = quantize_checkpoint(args.checkpoint, settings, args.output)
    _print(args, {"output": str(args.output), **result}, quantized_table(result), f"checkpoint: {args.output}")


def _merge(args: argparse.Namespace) -> None:
    from minitron.api.checkpoints import merge_folders

    result = merge_folders(args.checkpoints, args.weights, output=args.output)
    shares = ", ".join(
        f"{share:g} of {folder}" for share, folder in zip(result["weights"], args.checkpoints, strict=True)
    )
    _print(args, result, f"{result['params']:,} parameters in {result['output']}: {shares}")


def _evaluate(args: argparse.Namespace) -> None:
    from minitron.api.checkpoints import evaluate_checkpoint
    from minitron.report.tables import metrics_table

    metrics = evaluate_checkpoint(
        args.checkpoint,
        data=args.data,
        teacher=args.teacher,
        task=args.task,
        max_new_tokens=args.max_new_tokens,
        blocks=args.blocks,
        seq_len=args.seq_len,
        context_tokens=args.context,
        device=args.device,
    )
    table = metrics_table({args.checkpoint.name: metrics}, budget_bytes=None, context_tokens=args.context)
    _print(args, metrics, table)


def _print(args: argparse.Namespace, result: dict[str, Any], *shown: Table | str) -> None:
    if os.environ.get("RANK", "0") != "0":  # one of several processes: the first one speaks
        return
    if args.json:
        print(json.dumps(result))
        return
    console = Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    for item in shown:
        console.print(item, soft_wrap=isinstance(item, str), markup=False)
