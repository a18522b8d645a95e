"""A second hybrid teacher, trained afresh: other text, seed, width, depth and vocabulary than the quickstart's.

    make build/smollm2/chat-heldout.jsonl
    python benchmarks/second_teacher.py --text build/smollm2/text-distillation.jsonl --output build/second/teacher

The text is Moby-Dick and the addresses on the state of the union. `second_teacher.yaml` beside this file is its recipe.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "quickstart"))

from train_teacher import CONFIG, train

from minitron.data.sources import TextSource

SECOND = CONFIG | {
    "hybrid_override_pattern": "M-M-*-M-M-*-M-M-",
    "hidden_size": 192,
    "intermediate_size": 480,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "mamba_num_heads": 20,
    "mamba_head_dim": 16,
    "n_groups": 4,
}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", required=True, help="JSON lines with a field `text`")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200, help="of 8 x 256 tokens (1200)")
    args = parser.parse_args()
    train([TextSource(path=args.text)], args.output, seed=7, config=SECOND, steps=args.steps)


if __name__ == "__main__":
    main()
