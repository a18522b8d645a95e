"""`check` against the readers' own configuration classes: what it takes, they read as it is meant, and nothing else.

SGLang's and older transformers' classes come out of their wheels (`make test-engines` fetches them); transformers 5.23
and mlx-lm are installed.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from minitron.integrations.readers.check import check
from minitron.integrations.readers.rules import NEWER_KINDS, OLDER_KINDS
from minitron.models.config import config_for_shape, shape_from_config
from minitron.models.families import NEMOTRON_H
from minitron.models.shape import HybridShape
from tests.support.models import make_moe_shape, make_tiny_shape

UNPACKED = Path(sys.prefix) / "readers"
# Reader of `check` -> the program's name of it, and the folder of its files.
READERS = {
    "transformers": ("installed", "."),
    "transformers@5.12 as 5.8.1": ("transformers", "transformers-5.8.1"),
    "transformers@5.12 as 5.12.1": ("transformers", "transformers-5.12.1"),
    "sglang": ("sglang", "sglang-0.5.23"),
    "mlx": ("mlx", "."),
}
# Sizes of nemotron_h that none of the classes has as a default, and a state that Apple GPUs can split.
DENSE = make_tiny_shape(ssm_state_size=32)
SHAPES = (DENSE, make_moe_shape(ssm_state_size=32), make_moe_shape(ssm_state_size=32, moe_latent_size=9))
PLAIN = {
    "model_type": "nemotron_h",
    "architectures": ["NemotronHForCausalLM"],
    "chunk_size": 8,
    "max_position_embeddings": 64,
    "layer_norm_epsilon": 1e-5,
    "use_conv_bias": True,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.5,
    **dict.fromkeys(("attention_bias", "mamba_proj_bias", "mlp_bias", "use_bias"), False),
}
Config = dict[str, Any]


def pattern(shape: HybridShape) -> Config:
    return {"hybrid_override_pattern": shape.hybrid_override_pattern, "num_hidden_layers": shape.num_hidden_layers}


def spellings(shape: HybridShape) -> Iterator[tuple[str, Config]]:
    """Configurations of one shape: every spelling of its blocks, and of each of its sizes."""
    sizes: Config = {**PLAIN, **shape.config_sizes, "mamba_n_groups": shape.n_groups}
    older, newer = ([names[kind] for kind in shape.hybrid_override_pattern] for names in (OLDER_KINDS, NEWER_KINDS))
    blocks: dict[str, Config] = {
        "pattern": pattern(shape),
        "older list": {"layers_block_type": older},
        "newer list": {"layers_block_type": newer},
        "older list, pattern": {"layers_block_type": older, **pattern(shape)},
        "newer list, pattern": {"layers_block_type": newer, **pattern(shape)},
        "older layer_types": {"layer_types": older},
        "newer layer_types": {"layer_types": newer},
        "newer layer_types, pattern": {"layer_types": newer, **pattern(shape)},
    }
    for name, spelt in blocks.items():
        yield name, sizes | spelt
        yield f"a student of {name}", config_for_shape(sizes | spelt, shape)
    sizes |= pattern(shape)
    yield "no mamba_n_groups", {key: value for key, value in sizes.items() if key != "mamba_n_groups"}
    for key, known in NEMOTRON_H.config_keys.items():
        for other in known[1:]:
            if shape.sizes[key]:
                yield f"{other} beside {key}", sizes | {other: shape.sizes[key]}
                without = {name: value for name, value in sizes.items() if name not in known}
                yield f"{other} for {key}", without | {other: shape.sizes[key]}


CONFIGS = {
    f"{shape.hybrid_override_pattern} {shape.moe_latent_size}: {name}": config
    for shape in SHAPES
    for name, config in spellings(shape)
}


@cache
def ask(reader: str) -> dict[str, Mapping[str, Any]]:
    """What a reader's class makes of each configuration, on one GPU."""
    return dict(zip(CONFIGS, run(reader, [(config, 1) for config in CONFIGS.values()]), strict=True))


def run(reader: str, request: list[tuple[Config, int]]) -> list[Mapping[str, Any]]:
    program, folder = READERS[reader]
    if folder != "." and not (UNPACKED / folder).is_dir():
        pytest.skip(f"{folder} is not there, `make test-engines` fetches it")
    if program == "mlx":
        pytest.importorskip("mlx_lm", reason="mlx-lm is not installed, `make test-engines` installs it")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("reader_configs.py")), program, str(UNPACKED / folder)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[Mapping[str, Any]] = json.loads(done.stdout)
    return answers


def is_as_meant(answer: Mapping[str, Any], shape: HybridShape) -> bool:
    """Whether a class gives the shape's sizes and blocks."""
    if answer["error"] is not None:
        return False
    meant: dict[str, int] = {**shape.sizes, "mamba_n_groups": shape.n_groups}
    taken = {name: size or 0 for name, size in answer["sizes"].items() if meant.get(name)}
    return answer["kinds"] == shape.hybrid_override_pattern and all(meant[name] == size for name, size in taken.items())


@pytest.mark.parametrize("reader", READERS)
def test_check_takes_what_the_readers_class_reads_as_it_is_meant(reader: str) -> None:
    answers = ask(reader)
    wrong = {}
    for name, config in CONFIGS.items():
        shape = shape_from_config(config)
        refusals = check(config, shape, reader.partition(" ")[0])
        if is_as_meant(answers[name], shape) == bool(refusals):
            wrong[name] = ([str(refusal) for refusal in refusals], answers[name])
    assert wrong == {}


@pytest.mark.parametrize("reader", [name for name in READERS if name != "transformers"])
def test_the_spellings_hold_some_that_a_reader_refuses_and_some_that_it_takes(reader: str) -> None:
    answers = ask(reader)
    fine = [name for name, config in CONFIGS.items() if is_as_meant(answers[name], shape_from_config(config))]
    assert 5 < len(fine) < len(CONFIGS) - 2


def test_check_refuses_the_numbers_of_gpus_that_sglangs_cache_refuses() -> None:
    shapes = [make_tiny_shape(ssm_state_size=32, mamba_num_heads=heads) for heads in (8, 12, 18)]
    asked = [(shape, gpus) for shape in shapes for gpus in range(1, 10)]
    configs = [{**PLAIN, **shape.config_sizes, "mamba_n_groups": 2, **pattern(shape)} for shape, _ in asked]
    answers = run("sglang", [(config, gpus) for config, (_, gpus) in zip(configs, asked, strict=True)])
    refused = [
        any(refusal.key == "mamba_num_heads" for refusal in check(config, shape, "sglang", gpus))
        for config, (shape, gpus) in zip(configs, asked, strict=True)
    ]
    assert refused == [answer["error"] is not None for answer in answers]
    assert 0 < sum(refused) < len(refused)


def test_check_refuses_the_patterns_that_mlx_lm_cannot_run() -> None:
    shapes = [make_tiny_shape(ssm_state_size=32, hybrid_override_pattern=kinds) for kinds in ("M-", "*-", "-", "M*")]
    configs = [{**PLAIN, **shape.config_sizes, **pattern(shape)} for shape in shapes]
    answers = run("mlx", [(config, 1) for config in configs])
    refused = [bool(check(config, shape, "mlx")) for config, shape in zip(configs, shapes, strict=True)]
    assert refused == [answer["error"] is not None for answer in answers] == [True, True, True, False]
