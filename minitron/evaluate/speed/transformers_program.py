"""Waves of requests in transformers, as a process of its own: `python -m ... ANSWERS SETTINGS`, as `vllm_program.py`.

SETTINGS has the checkpoint's `model`, `dtype` and `device`.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch
import transformers

from minitron.evaluate.speed.generate import run_wave
from minitron.evaluate.speed.peak import peak_bytes, start_counting
from minitron.evaluate.speed.worker import Started
from minitron.runtime.dtypes import torch_dtype
from minitron.runtime.loading import load_model


def main() -> None:
    """Loads the model and runs a wave for each line of stdin."""
    settings = json.loads(sys.argv[2])
    device = settings["device"]
    with os.fdopen(int(sys.argv[1]), "w") as answers:
        before = start_counting(device)
        model = load_model(Path(settings["model"]), device=device, dtype=torch_dtype(settings["dtype"]))
        name = torch.cuda.get_device_name(device) if model.device.type == "cuda" else device
        engine = f"transformers {transformers.__version__}"
        started = Started(engine=engine, device=name, threads=torch.get_num_threads())
        print(json.dumps(asdict(started)), file=answers, flush=True)
        for line in sys.stdin:
            wave = run_wave(model, **json.loads(line))
            print(json.dumps(asdict(wave) | {"peak_bytes": peak_bytes(device) - before}), file=answers, flush=True)


if __name__ == "__main__":
    main()
