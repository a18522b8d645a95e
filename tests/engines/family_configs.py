"""Readers' configuration classes of many families, as a program: `python family_configs.py READER FOLDER < request`.

READER and FOLDER are as in `reader_configs.py`. The request, in JSON, is a list of configurations; the answer has, for
each, what the class says under every key of the configuration, the kind of each layer, or the class's error.
"""

import importlib
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import reader_configs


def find_class(model_type: str, reader: str) -> Any:
    """The configuration class of a `model_type`; None where the reader has no class of its own."""
    if reader == "sglang":
        if model_type != "granitemoehybrid":
            return None
        return importlib.import_module("sglang.srt.configs.granitemoehybrid").GraniteMoeHybridConfig
    folder = model_type.removesuffix("_text")
    if importlib.util.find_spec(f"transformers.models.{folder}") is None:
        return None
    module = importlib.import_module(f"transformers.models.{folder}.configuration_{folder}")
    classes = [each for each in vars(module).values() if getattr(each, "model_type", None) == model_type]
    return classes[0] if classes else None


def answer(config: dict[str, Any], reader: str) -> dict[str, Any] | None:
    """What the class makes of a configuration."""
    found = find_class(config["model_type"], reader)
    if found is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config))
        try:
            read = found.from_json_file(path)
        except Exception as error:  # whatever the class raises is its refusal
            return {"error": f"{type(error).__name__}: {error}"}
    layers = getattr(read, "layer_types", None) or getattr(read, "layers_block_type", None)
    values = {key: getattr(read, key, None) for key in config}
    return {"error": None, "values": values, "layers": layers}


if __name__ == "__main__":
    reader_configs.READERS[sys.argv[1]](Path(sys.argv[2]))
    answers = [answer(config, sys.argv[1]) for config in json.load(sys.stdin)]
    json.dump(answers, sys.stdout, default=str)
