"""A whole recipe for a tiny teacher."""

import json
from pathlib import Path

import yaml

from minitron.estimate.serving.memory import memory_bytes
from minitron.estimate.serving.workload import Workload
from minitron.models.shape import HybridShape
from tests.support.models import make_tiny_shape, write_tiny_checkpoint

TINY_SIZES = {"num_hidden_layers": [8, 7], "hidden_size": [22, 18, 14], "mamba_num_heads": [8, 6, 4]}


def write_tiny_recipe(
    tmp_path: Path, shape: HybridShape | None = None, sizes: dict[str, list[int]] = TINY_SIZES
) -> Path:
    """A whole recipe for a teacher of a shape (the tiny hybrid), with a budget of seven tenths of what that needs."""
    shape = shape or make_tiny_shape()
    write_tiny_checkpoint(tmp_path / "teacher", shape=shape)
    (tmp_path / "text.txt").write_text("\n---\n".join(f"line {i} of some text" for i in range(60)))
    (tmp_path / "heldout.txt").write_text("\n---\n".join(f"line {i} of some other text" for i in range(60)))
    problems = [{"prompt": f"{i}+{i}=", "answer": str(2 * i)} for i in range(3)]
    (tmp_path / "problems.jsonl").write_text("\n".join(json.dumps(problem) for problem in problems))
    data = [{"path": "text.txt"}]
    recipe = {
        "version": 1,
        "name": "tiny",
        "teacher": "teacher",
        "score": {"data": data, "samples": 4, "seq_len": 16},
        "budget": {
            "memory_bytes": memory_bytes(shape, Workload(context_tokens=64)).total_bytes * 7 // 10,
            "utilization": 1.0,
            "context_tokens": 64,
        },
        "search": sizes,
        "distill": {"data": data, "tokens": 256, "seq_len": 16, "batch_size": 2, "learning_rate": 0.001},
        "evaluate": {
            "data": [{"path": "heldout.txt"}],
            "sequences": 2,
            "seq_len": 16,
            "task": {"name": "sums", "path": "problems.jsonl", "max_new_tokens": 3},
            "speed": {"input_tokens": 3, "output_tokens": 2, "concurrency": 2, "repetitions": 1},
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


TWO_STEPS = (
    "search.num_hidden_layers=null",
    "depth_first={num_hidden_layers: 6, distill: {data: [{path: text.txt}], tokens: 128, seq_len: 16, batch_size: 2}}",
    "score.depth={scorer: logit_mse, remove: 2, keep_attention: 1}",
)

# Every stage that a recipe may have, each in little.
EVERY_STAGE = (
    *TWO_STEPS,
    "prune.vocabulary={size: 264, multiple_of: 8}",
    "correct_teacher={tokens: 64, seq_len: 16, batch_size: 2, save_steps: 1}",
    "search.choose=tournament",
    "search.shortlist=2",
    "search.tournament={tokens: [64], sequences: 3}",
    "prune.repair={samples: 4, batch_size: 2}",
    "distill.teacher={mode: cached, top_k: 16}",
    "distill.save_steps=1",
)
