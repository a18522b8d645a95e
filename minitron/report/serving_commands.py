"""How to serve a student: what to type for each engine, on the page of a run and in a model card."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from minitron.estimate.serving.reader_names import ReaderName
from minitron.estimate.serving.readers import broken_rules
from minitron.estimate.serving.shape_rules import Serving
from minitron.estimate.serving.vllm_command import longest_context
from minitron.models.shape import HybridShape

# Reader -> what people call it.
ENGINES: Mapping[ReaderName, str] = {"vllm": "vLLM", "llamacpp": "llama.cpp", "transformers": "transformers"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingCommand:
    """How an engine serves a checkpoint.

    Attributes:
        engine: What people call the engine.
        language: What the text is in: bash or python.
        text: What to type; empty where the engine does not take the checkpoint.
        about: What to know of it, or why there is nothing to type.
    """

    engine: str
    language: str
    text: str
    about: str


def shape_refusals(shape: HybridShape, config_keys: Collection[str]) -> dict[str, list[str]]:
    """Reader -> the rules about its shape that a model breaks; `minitron check` asks about the other keys, too."""
    serving = Serving(readers=tuple(ENGINES), config_keys=frozenset(config_keys))
    refusals: dict[str, list[str]] = {reader: [] for reader in ENGINES}
    for reader, rule in broken_rules(shape, serving):
        states, found = rule.states(shape.sizes, serving), rule.found(shape, serving)
        refusals[reader].append(f"{rule.key} must {states}, got {found}")
    return refusals


def served_context(config: Mapping[str, object], wanted: int) -> int:
    """Tokens of a context that are asked for: those wanted, at most what a configuration allows.

    >>> served_context({"max_position_embeddings": 4096}, 131072), served_context({}, 131072)
    (4096, 131072)
    """
    return min(wanted, longest_context(config) or wanted)


def serving_commands(
    checkpoint: str,
    *,
    context_tokens: int,
    refusals: Mapping[str, Sequence[str]],
    vllm: str | None = None,
    gpu: str | None = None,
) -> tuple[ServingCommand, ...]:
    """What to type for vLLM, llama.cpp and transformers.

    Args:
        checkpoint: The checkpoint's folder, or its name on the hub.
        context_tokens: Tokens that each sequence must hold, at most those that the configuration allows.
        refusals: Reader -> why it does not take the checkpoint; empty where it does.
        vllm: The line that starts vLLM within the budget, as `minitron fit` prints it; None where there is none.
        gpu: The GPU that the budget is of; None where it is of none.
    """
    fit = f"minitron fit {checkpoint} --gpu {gpu or 'GPU'} --context {context_tokens} --accounting vllm"
    plain = f"vllm serve {checkpoint} --max-model-len {context_tokens}"
    lines: dict[ReaderName, tuple[str, str, str]] = {
        "vllm": (
            ("bash", vllm, f"within the budget on {gpu}, by vLLM's accounting")
            if vllm is not None
            else ("bash", plain, f"as it starts by itself; `{fit}` prints a line that fits a GPU")
        ),
        "llamacpp": (
            "bash",
            f"minitron export {checkpoint} --format gguf --output student.gguf\n"
            f"llama-server -m student.gguf -c {context_tokens}",
            "as one GGUF file; the first command takes minitron[gguf]",
        ),
        "transformers": (
            "python",
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("{checkpoint}")\n'
            f'tokenizer = AutoTokenizer.from_pretrained("{checkpoint}")\n'
            'prompt = tokenizer("...", return_tensors="pt")\n'
            "print(tokenizer.decode(model.generate(**prompt, max_new_tokens=64)[0]))",
            "in Python",
        ),
    }
    return tuple(
        ServingCommand(engine=ENGINES[reader], language=language, text=text, about=about)
        if not refusals.get(reader)
        else ServingCommand(
            engine=ENGINES[reader], language="", text="", about=f"does not take it: {refusals[reader][0]}"
        )
        for reader, (language, text, about) in lines.items()
    )
