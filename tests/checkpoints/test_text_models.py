"""Models that see, too: their text model is read, computes the same, and is what a student is made of."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from minitron.checkpoints.checkpoint import open_checkpoint
from minitron.models.keep import Keep
from minitron.prune.checkpoint import prune_checkpoint
from minitron.prune.plan import PrunePlan
from minitron.runtime.loading import load_model

ATTENTION = {"num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 30}
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 7,
    "linear_value_head_dim": 5,
    "layer_types": ["linear_attention", "full_attention"],
    "num_hidden_layers": 2,
    "head_dim": 16,
}
EXPERTS = {
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 14,
    "shared_expert_intermediate_size": 18,
}
GEMMA = {
    "num_hidden_layers": 3,
    "head_dim": 8,
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
SEEN_BY_GEMMA = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
SEEN_BY_QWEN = {"depth": 1, "hidden_size": 16, "intermediate_size": 20, "num_heads": 2, "out_hidden_size": 24}
# model_type -> (settings of the text model, of the vision tower, of the whole)
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "gemma3": ({**ATTENTION, **GEMMA}, SEEN_BY_GEMMA, {"mm_tokens_per_image": 4}),
    "qwen3_5": ({**ATTENTION, **DELTA}, SEEN_BY_QWEN, {}),
    "qwen3_5_moe": ({**ATTENTION, **DELTA, **EXPERTS}, SEEN_BY_QWEN, {}),
}


def whole_model(model_type: str) -> Any:
    text, vision, more = MODELS[model_type]
    sizes = {"vocab_size": 271, "hidden_size": 24, **text}
    config = AutoConfig.for_model(model_type, text_config=sizes, vision_config=vision, **more)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()
    if model._can_set_experts_implementation():
        model.set_experts_implementation("eager")
    return model


@pytest.mark.parametrize("model_type", MODELS)
def test_the_text_model_is_read_and_pruned_without_what_sees(
    model_type: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = whole_model(model_type)
    whole.save_pretrained(tmp_path / "whole")
    source = open_checkpoint(tmp_path / "whole")
    assert source.shape.model_type == f"{model_type}_text"
    assert "are left out: the text model is taken" in caplog.text
    text, ids_BT = load_model(tmp_path / "whole"), torch.arange(3, 14)[None]
    with torch.no_grad():
        torch.testing.assert_close(text(ids_BT).logits, whole(input_ids=ids_BT).logits, rtol=0, atol=0)
    keep = Keep(layers=(1,), indices={("hidden_size", None): np.arange(12)})
    plan = PrunePlan(source=source.shape, target=keep.shape(source.shape), keep=keep)
    student = prune_checkpoint(source, plan, tmp_path / "student")
    loaded = AutoModelForCausalLM.from_pretrained(student.folder)
    assert loaded.num_parameters() == student.shape.params == plan.target.params
    assert json.loads((student.folder / "config.json").read_text())["model_type"] == f"{model_type}_text"
