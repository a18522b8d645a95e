"""Files of a checkpoint: configuration, tokenizer, weights and their index, lineage, plans, scores."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from minitron.api.check import check
from minitron.api.fit import fit
from minitron.api.shapes import read_shape, split_depth
from minitron.checkpoints.checkpoint import carried_files, open_checkpoint
from minitron.checkpoints.headers import INDEX_FILE, SINGLE_FILE, read_header, read_headers
from minitron.checkpoints.lineage import LINEAGE_FILE, lineage_of, write_lineage
from minitron.checkpoints.quantization import config_dtype, find_quantization
from minitron.checkpoints.vocabulary import read_vocabulary
from minitron.importance.scores import load_scores, random_scores, save_scores
from minitron.integrations.gguf.tokenizer import read_tokenizer
from minitron.models.config import read_config
from minitron.prune.plan import load_plan, save_plan
from minitron.prune.plan_summary import describe_plan
from minitron.recipe.source_checks import has_chat_template
from minitron.report.model_card import Described, model_card
from minitron.runtime.loading import load_model, load_tokenizer
from minitron.vocabulary.rewriting import CONFIG_FILES, named_ids
from minitron.vocabulary.tokenizer_file import read_tokenizer_file
from tests.faults.fuzzing.target import Target, from_bytes, from_json, from_safetensors
from tests.support.gguf_files import make_mergeable_tokenizer
from tests.support.models import (
    config_json,
    make_config,
    make_dense_shape,
    make_moe_shape,
    make_tiny_shape,
    write_tiny_checkpoint,
)
from tests.support.plans import make_plan

DENSE = ("llama", "qwen3", "mistral", "smollm3")
QUANTIZED = (
    {"quant_method": "gptq", "bits": 4},
    {"quant_method": "fp8", "weight_block_size": [128, 128]},
    {"quant_method": "compressed-tensors", "format": "x", "config_groups": {"a": {"weights": {"num_bits": 4}}}},
    {"quant_method": "modelopt", "quant_algo": "NVFP4"},
)


def model_targets(folder: Path) -> Iterator[Target]:
    """The targets, whose files lie in a folder that is written here."""
    yield from _configurations(folder)
    yield from _tokenizers(folder)
    yield from _weights(folder)
    yield from _plans_and_scores(folder)


def _configurations(folder: Path) -> Iterator[Target]:
    shapes = [make_tiny_shape(), make_moe_shape(), *(make_dense_shape(family) for family in DENSE)]
    configs: list[Any] = [config_json(make_config(shape)) for shape in shapes]
    listed = configs[0] | {
        "layers_block_type": ["mamba", "mlp", "attention", "mamba", "mamba", "mlp", "attention", "mlp"]
    }
    configs += [listed, *(configs[2] | {"quantization_config": each} for each in QUANTIZED)]
    path = _new(folder / "config") / "config.json"

    def plain() -> None:
        fit(path)
        check(path)

    def paged() -> None:
        fit(path, accounting="vllm", context=4096, sequences=3)

    def quantized() -> None:
        config_dtype(config := read_config(path), find_quantization(config, path.parent))

    yield Target(name="config.json", path=path, make=from_json(*configs), read=plain)
    yield Target(name="config.json, accounting in pages", path=path, make=from_json(*configs[:-4]), read=paged)
    yield Target(name="quantization_config", path=path, make=from_json(*configs[-4:]), read=quantized)
    shape = _new(folder / "shape") / "shape.json"
    sizes = {"hidden_size": 14, "intermediate_size": 21, "mamba_num_heads": 4, "layers": [0, 1, 2]}
    yield Target(
        name="shape of --shape", path=shape, make=from_json(sizes), read=lambda: split_depth(read_shape(str(shape)))
    )


def _tokenizers(folder: Path) -> Iterator[Target]:
    home = write_tiny_checkpoint(folder / "tokenizer")
    make_mergeable_tokenizer().save_pretrained(home)
    config = read_config(home)

    def read() -> None:
        read_vocabulary(home)
        file = read_tokenizer_file(home)
        named_ids(home, file)
        assert file.base_ids is not None
        assert file.merges is not None
        has_chat_template(home)
        read_tokenizer(home, config, 271, pre_tokenizer=None)

    model = write_tiny_checkpoint(folder / "loaded", shape=make_dense_shape("llama"))
    for name in ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"):
        path = model / name
        whole = path.read_bytes() if path.is_file() else b'{"eos_token_id": 2, "max_length": 20}'
        yield Target(
            name=f"{name}, by transformers",
            path=path,
            make=from_json(json.loads(whole)),
            read=(lambda: load_model(model)) if name in CONFIG_FILES else (lambda: load_tokenizer(model)),
            clean=_putting_back(path, whole),
            share=0.25,
        )
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        path = home / name
        whole = path.read_bytes() if path.is_file() else b'{"eos_token": "</s>", "eos_token_id": 2}'
        yield Target(
            name=name,
            path=path,
            make=_mostly(from_json(json.loads(whole)), from_bytes(whole)),
            read=read,
            clean=_putting_back(path, whole),
        )


def _weights(folder: Path) -> Iterator[Target]:
    single = write_tiny_checkpoint(folder / "single")
    weights = single / SINGLE_FILE
    whole = weights.read_bytes()
    yield Target(
        name="safetensors header", path=weights, make=from_safetensors(whole), read=lambda: read_header(weights)
    )
    yield Target(
        name="checkpoint of such a header",
        path=weights,
        make=from_safetensors(whole),
        read=lambda: open_checkpoint(single),
        clean=_putting_back(weights, whole),
    )
    sharded = write_tiny_checkpoint(folder / "sharded", shard_bytes=20_000)
    index = sharded / INDEX_FILE
    yield Target(
        name="index of shards",
        path=index,
        make=from_json(json.loads(index.read_bytes())),
        read=lambda: read_headers(sharded),
    )
    checkpoint = open_checkpoint(single)
    lineage = {**lineage_of(checkpoint, hashes={"model": "a", "tokenizer": "b"})}
    lineage["steps"] = [{"step": "prune", "versions": {}}, {"step": "distill", "tokens": 5}]
    write_lineage(lineage, single)  # type: ignore[arg-type]

    def read_card() -> None:
        described = Described(name="a", params=1, shape=asdict(checkpoint.shape))
        model_card(lineage_of(checkpoint, hashes={}), described, commands=())

    yield Target(name="lineage", path=single / LINEAGE_FILE, make=from_json(lineage), read=read_card)
    assert carried_files(single)


def _plans_and_scores(folder: Path) -> Iterator[Target]:
    shape = make_tiny_shape()
    plan, scores = _new(folder / "plan") / "prune.plan", _new(folder / "scores") / "scores.safetensors"
    save_plan(make_plan(shape), plan)
    save_scores(random_scores(shape, seed=0), scores)
    yield Target(
        name="pruning plan",
        path=plan,
        make=from_safetensors(plan.read_bytes(), inner="minitron"),
        read=lambda: describe_plan(load_plan(plan)),
    )
    yield Target(
        name="scores",
        path=scores,
        make=from_safetensors(scores.read_bytes(), inner="minitron"),
        read=lambda: load_scores(scores),
    )


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _putting_back(path: Path, content: bytes) -> Callable[[], None]:
    return lambda: path.write_bytes(content) and None


def _mostly(
    first: Callable[[random.Random], bytes], other: Callable[[random.Random], bytes]
) -> Callable[[random.Random], bytes]:
    return lambda rng: (first if rng.random() < 0.8 else other)(rng)
