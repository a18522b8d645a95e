"""Alignment between two distillations: SFT and DPO by TRL on a student, repair from its teacher, and a merge.

    make align

The order is that of the published Nemotron Nano 2 (arXiv 2508.14444): a student that was pruned and distilled is
aligned, what that took from it is distilled back, and checkpoints are merged. Five of one shape are measured:

    student -> sft -> dpo -> repaired, by `minitron.distill(recipe, student=...)` -> merged, halfway between those two

Each is a folder that minitron and transformers load, with the student's tokenizer and configuration. One that is there
already is taken as it is, so a stopped run goes on with the next stage; other sizes need another output.
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from datasets import Dataset, disable_progress_bars
from preferences import Record, Turn, as_conversations, as_pairs, read_problems, write_conversations
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

import minitron
from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.recipe.recipe import Recipe
from minitron.runtime.loading import load_model, load_tokenizer
from minitron.runtime.saving import save_model

MERGED = (0.5, 0.5)
_ANSWERS = ("chosen", "rejected")
# At least, of a conversation, so that the held-out ones are enough for the sequences that they are packed into.
CONVERSATION_TOKENS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much of each stage is done, and how fast.

    Attributes:
        sft_steps: Optimizer steps of supervised tuning.
        sft_rate: Its peak learning rate.
        dpo_steps: Optimizer steps of preference tuning.
        dpo_rate: Its peak learning rate.
        batch_size: Conversations, or pairs, in one step.
        repair_tokens: Tokens of the repair by the teacher.
        refusals: Share of conversations, trained on and held out, that cannot be answered. Few: supervised tuning shows
            what a refusal looks like, preferences say when it is due.
        measured: Held-out problems that the SFT loss, and pairs that the preference accuracy is of.
    """

    sft_steps: int = 100
    sft_rate: float = 2e-4
    dpo_steps: int = 50
    dpo_rate: float = 1e-4
    batch_size: int = 8
    repair_tokens: int = 32_768
    refusals: float = 0.1
    measured: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What alignment trains on, and what it is measured by.

    Attributes:
        sft: Prompts and completions.
        dpo: Prompts with a chosen and a rejected answer.
        held_out_pairs: The same, of problems that nothing trains on.
        held_out: A source of text: a file of such conversations, and their chat template.
        template: The chat template's text.
    """

    sft: list[Record]
    dpo: list[Record]
    held_out_pairs: list[Record]
    held_out: dict[str, object]
    template: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a checkpoint does on text that no stage trains on.

    Attributes:
        kl_to_teacher: Of the recipe's held-out text, nats a token.
        sft_loss: Cross-entropy of the answers of held-out conversations, nats a token.
        preference_accuracy: Share of held-out pairs whose chosen answer is likelier than the rejected one.
    """

    kl_to_teacher: float
    sft_loss: float
    preference_accuracy: float


def make_records(data: Path, template: Path, output: Path, *, sizes: Sizes, seed: int) -> Records:
    """Records of the quickstart's problems; no problem is trained on twice.

    Args:
        data: Folder with `chat-train.jsonl` and `chat-test.jsonl`.
        template: The chat template, a Jinja file.
        output: Where the held-out conversations are written.
        sizes: How many records.
        seed: Seed of what is drawn.
    """
    rng, sft = random.Random(seed), sizes.sft_steps * sizes.batch_size
    problems = read_problems(data / "chat-train.jsonl", sft + sizes.dpo_steps * sizes.batch_size)
    unseen = read_problems(data / "chat-test.jsonl", sizes.measured)
    written = output / "heldout.jsonl"
    write_conversations(written, as_conversations(unseen, sizes.refusals, rng))
    return Records(
        sft=as_conversations(problems[:sft], sizes.refusals, rng),
        dpo=as_pairs(problems[sft:], rng),
        held_out_pairs=as_pairs(unseen, rng),
        held_out={"path": str(written), "chat_template": str(template)},
        template=template.read_text(encoding="utf-8"),
    )


def tune_supervised(start: Path, records: Records, output: Path, *, sizes: Sizes, seed: int) -> None:
    """SFT of a checkpoint: the cross-entropy of completions."""
    model, tokenizer = _load(start, records.template)
    settings = SFTConfig(**_common(output, sizes, seed), max_steps=sizes.sft_steps, learning_rate=sizes.sft_rate)
    data = Dataset.from_list(records.sft)
    SFTTrainer(model=model, args=settings, train_dataset=data, processing_class=tokenizer).train()
    _save(model, start, output)


def tune_by_preference(start: Path, records: Records, output: Path, *, sizes: Sizes, seed: int) -> None:
    """DPO of a checkpoint against itself as the reference."""
    model, tokenizer = _load(start, records.template)
    settings = DPOConfig(
        **_common(output, sizes, seed), max_steps=sizes.dpo_steps, learning_rate=sizes.dpo_rate, beta=0.1
    )
    data = Dataset.from_list(records.dpo)
    # Left out, the reference would be loaded by the configuration's path, without minitron's limits of time steps.
    reference = load_model(start)
    DPOTrainer(model=model, ref_model=reference, args=settings, train_dataset=data, processing_class=tokenizer).train()
    _save(model, start, output)


def _load(checkpoint: Path, template: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tokenizer = load_tokenizer(checkpoint)
    tokenizer.chat_template = template
    return load_model(checkpoint), tokenizer


def _save(model: PreTrainedModel, start: Path, output: Path) -> None:
    # Not by the trainer, which writes what it changed: padding in the configuration, the template in the tokenizer.
    partial = output.with_name(f"{output.name}.partial")
    save_model(model.state_dict(), open_checkpoint(start), partial)
    partial.rename(output)


def _common(output: Path, sizes: Sizes, seed: int) -> dict[str, object]:
    return {
        "output_dir": str(output.with_name(f"{output.name}.trainer")),
        "per_device_train_batch_size": sizes.batch_size,
        "max_length": 256,
        # A row a conversation: those that are joined in one would share a Mamba state, which no mask parts.
        "padding_free": False,
        # Both are on in TRL where nothing is said.
        "bf16": False,
        "gradient_checkpointing": False,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 5,
        "use_cpu": True,
        "seed": seed,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


@torch.no_grad()
def log_likelihood(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: list[Turn], answer: list[Turn]
) -> float:
    """Natural logarithm of the probability of all tokens of an answer, its end of text among them."""
    asked, whole = (tokenizer.apply_chat_template(turns, return_dict=False) for turns in (prompt, [*prompt, *answer]))
    assert whole[: len(asked)] == asked
    ids_T = torch.tensor(whole)
    logits_TV = model(input_ids=ids_T[None], use_cache=False).logits[0, len(asked) - 1 : -1]
    return float(logits_TV.float().log_softmax(-1).gather(-1, ids_T[len(asked) :, None]).sum())


def preference_accuracy(checkpoint: Path, pairs: Sequence[Record], template: str) -> float:
    """Share of pairs whose chosen answer a model finds likelier than the rejected one; there is no reference in it."""
    model, tokenizer = _load(checkpoint, template)

    def prefers_chosen(pair: Record) -> bool:
        chosen, rejected = (log_likelihood(model, tokenizer, pair["prompt"], pair[name]) for name in _ANSWERS)
        return chosen > rejected

    return sum(map(prefers_chosen, pairs)) / len(pairs)


def measure(checkpoint: Path, recipe: Recipe, records: Records) -> Measured:
    """What a checkpoint does on held-out text, conversations and pairs."""
    section = recipe.evaluate
    sizes = {"sequences": section.sequences, "seq_len": section.seq_len}
    text = minitron.evaluate(checkpoint, section.data, teacher=recipe.teacher, settings=sizes)
    packed = max(1, CONVERSATION_TOKENS * len(records.held_out_pairs) // section.seq_len)
    answers = minitron.evaluate(checkpoint, records.held_out, settings={**sizes, "sequences": packed})
    assert text.kl_to_teacher is not None
    return Measured(
        kl_to_teacher=text.kl_to_teacher,
        sft_loss=answers.loss,
        preference_accuracy=preference_accuracy(checkpoint, records.held_out_pairs, records.template),
    )


def align(recipe: Recipe, student: Path, records: Records, output: Path, *, sizes: Sizes) -> dict[str, Path]:
    """Takes a student through all stages; the checkpoints by name, in order.

    Args:
        recipe: Its teacher and `distill` section repair.
        student: The checkpoint that is aligned; it stays as it is.
        records: What alignment trains on.
        output: Folder of the checkpoints.
        sizes: How much of each stage is done.
    """
    sft, dpo = output / "sft", output / "dpo"
    if not sft.exists():
        tune_supervised(student, records, sft, sizes=sizes, seed=recipe.seed)
    if not dpo.exists():
        tune_by_preference(sft, records, dpo, sizes=sizes, seed=recipe.seed)
    repaired = minitron.distill(recipe, student=dpo, output=output / "repair")
    merged = minitron.merge([dpo, repaired], weights=MERGED, output=output / "merged").output
    return {"student": student, "sft": sft, "dpo": dpo, "repaired": repaired, "merged": merged}


def for_repair(recipe: Recipe) -> Recipe:
    """The recipe with those of its sources alone that are no conversations.

    On conversations a teacher that was not aligned would undo the alignment: docs/guides/align.md has the numbers.
    """
    text = tuple(source for source in recipe.distill.data if source.chat_template is None)
    return recipe.model_copy(update={"distill": recipe.distill.model_copy(update={"data": text})})


def show(measured: dict[str, Measured]) -> None:
    """Prints a line for each checkpoint."""
    table = Table("checkpoint", "KL to teacher", "SFT loss", "preference accuracy")
    for name, one in measured.items():
        table.add_row(name, f"{one.kl_to_teacher:.4f}", f"{one.sft_loss:.4f}", f"{one.preference_accuracy:.1%}")
    Console(width=100).print(table)


def main() -> None:
    """Command line."""
    quickstart = Path("examples/quickstart")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--student", type=Path, required=True, help="checkpoint to align")
    parser.add_argument("--output", type=Path, required=True, help="folder of the checkpoints and of measured.json")
    parser.add_argument("--recipe", type=Path, default=quickstart / "blend.yaml", help="teacher, repair, held-out text")
    parser.add_argument("--data", type=Path, default=quickstart / "data", help="folder that make_data.py wrote")
    parser.add_argument("--chat-template", type=Path, default=quickstart / "chat.jinja", help="of its conversations")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override the recipe's settings"
    )
    for name, size in asdict(Sizes()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(size), default=size, help=f"({size})")
    args = parser.parse_args()
    sizes = Sizes(**{name: getattr(args, name) for name in asdict(Sizes())})
    disable_progress_bars()
    # A student that is repaired is close to its teacher, so that it is trained gently.
    overrides = ["distill.learning_rate=0.0002", *args.set, f"distill.tokens={sizes.repair_tokens}"]
    recipe = for_repair(minitron.load_recipe(args.recipe, overrides))
    args.output.mkdir(parents=True, exist_ok=True)
    records = make_records(args.data, args.chat_template, args.output, sizes=sizes, seed=recipe.seed)
    checkpoints = align(recipe, args.student, records, args.output, sizes=sizes)
    measured = {name: measure(checkpoint, recipe, records) for name, checkpoint in checkpoints.items()}
    found = {name: asdict(one) for name, one in measured.items()}
    (args.output / "measured.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    show(measured)


if __name__ == "__main__":
    main()
