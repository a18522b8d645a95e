"""Students' configurations through readers' own configuration classes: sizes and layers are read as written."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from minitron.models.config import config_for_shape, shape_from_config
from minitron.models.shape import HybridShape
from tests.engines.published import PUBLISHED
from tests.engines.test_config_readers import READERS, UNPACKED

LAYERS = (0, 2, 3, 5, 7, 9, 11)
CUTS: dict[str, dict[str, int]] = {
    "mistral": {"hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 4},
    "qwen2": {"hidden_size": 1792, "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 9000},
    "smollm3": {"hidden_size": 1024, "intermediate_size": 8192, "num_attention_heads": 8, "num_key_value_heads": 2},
    "gemma3_text": {"hidden_size": 768, "intermediate_size": 4096},
    "granitemoehybrid": {"hidden_size": 2048, "mamba_num_heads": 64, "n_routed_experts": 36},
    "bamba": {"hidden_size": 2048, "mamba_num_heads": 64, "intermediate_size": 9000},
    "qwen3_moe": {"n_routed_experts": 96, "moe_intermediate_size": 512, "hidden_size": 1536},
    "qwen3_5_text": {"linear_num_key_heads": 8, "linear_num_value_heads": 16},
    "qwen3_5_moe_text": {"n_routed_experts": 128, "moe_shared_expert_intermediate_size": 256},
}
# Kinds of layer as classes name them, newer and older ones; by letter of a family.
KINDS = {
    "full_attention": "T",
    "attention": "T",
    "sliding_attention": "S",
    "linear_attention": "G",
    "mamba": "H",
}
# Readers whose classes go through all families that they know, and how many those are.
KNOWN = {"transformers": 9, "transformers@5.12 as 5.8.1": 9, "transformers@5.12 as 5.12.1": 9, "sglang": 1}


def student(name: str) -> tuple[dict[str, Any], HybridShape]:
    config = dict(PUBLISHED[name])
    shape = shape_from_config(config)
    target = shape.resized(layers=LAYERS, **CUTS[name])
    return config_for_shape(config, target), target


@cache
def ask(reader: str) -> dict[str, Any]:
    """What a reader's classes make of each student; None of a family that it has no class of."""
    program, folder = READERS[reader]
    if folder != "." and not (UNPACKED / folder).is_dir():
        pytest.skip(f"{folder} is not there, `make test-engines` fetches it")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("family_configs.py")), program, str(UNPACKED / folder)],
        input=json.dumps([student(name)[0] for name in PUBLISHED]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(PUBLISHED, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("reader", KNOWN)
def test_every_size_and_layer_of_a_student_is_read_as_it_is_written(reader: str) -> None:
    answers = {name: answer for name, answer in ask(reader).items() if answer is not None}
    if not answers or (reader != "sglang" and "qwen2" not in answers):
        pytest.skip("the unpacked files hold no such classes, `make test-engines` fetches them")
    assert len(answers) == KNOWN[reader]
    for name, answer in answers.items():
        assert answer["error"] is None, (name, answer)
        config, shape = student(name)
        sizes = {key: config[key] for key in shape.config_sizes if key in config}
        assert {key: answer["values"][key] for key in sizes} == sizes, name
        assert answer["values"]["num_hidden_layers"] == len(LAYERS)
        if name not in ("mistral", "smollm3", "qwen3_moe") and answer["layers"] is not None:
            letters = "".join(KINDS[kind] for kind in answer["layers"])
            assert letters.replace("G", "H") == shape.hybrid_override_pattern.replace("G", "H"), name
    if "smollm3" in answers:
        assert answers["smollm3"]["values"]["no_rope_layers"] == student("smollm3")[0]["no_rope_layers"]
