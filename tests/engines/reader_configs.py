"""Readers' own configuration classes, as a program: `python reader_configs.py READER FOLDER < request > answer`.

FOLDER holds the files of the reader's wheel that `unpack_readers.py` takes; what those import beside them, and what a
configuration has no use for, is replaced by empty stand-ins. The request, in JSON, is a list of configurations with the
number of GPUs; the answer says of each what the class makes of it: its sizes, the letters of its blocks, or its error.
"""

import importlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "mamba_num_heads",
    "mamba_head_dim",
    "n_groups",
    "mamba_n_groups",
    "ssm_state_size",
    "conv_kernel",
    "n_routed_experts",
    "num_experts_per_tok",
    "n_group",
    "topk_group",
    "moe_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "moe_latent_size",
)
# Of transformers: what loading a configuration imports and does not use.
UNUSED = (
    "dependency_versions_check",
    "generation",
    "generation.configuration_utils",
    "modeling_gguf_pytorch_utils",
    "utils.auto_docstring",
)
Load = Callable[[Path, int], Any]


class StandIn(ModuleType):
    """A module that has every name, as an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {"_get_default_generation_params": staticmethod(dict)})


def load_transformers(folder: Path) -> Load:
    """The class of a version of transformers that is not the installed one."""
    for name in UNUSED:
        sys.modules[f"transformers.{name}"] = StandIn(f"transformers.{name}")
    sys.modules["transformers.utils.auto_docstring"].auto_docstring = lambda **_: lambda found: found  # type: ignore[attr-defined]
    if importlib.util.find_spec("httpx") is None:
        sys.modules["httpx"] = StandIn("httpx")
    sys.path.insert(0, str(folder))
    return load_installed(folder)


def load_installed(_: Path) -> Load:
    """The class of the installed transformers."""
    found = importlib.import_module("transformers.models.nemotron_h.configuration_nemotron_h")
    return lambda path, _: found.NemotronHConfig.from_json_file(path)


def load_sglang(folder: Path) -> Load:
    """SGLang's class; the shapes of its cache say whether it splits over the GPUs."""
    for name in ("sglang", "sglang.srt", "sglang.srt.configs", "sglang.srt.distributed"):
        package = sys.modules[name] = ModuleType(name)
        package.__path__ = [str(folder / name.replace(".", "/"))]
    context: Any = StandIn("sglang.srt.runtime_context")
    sys.modules[context.__name__] = context
    parallel = SimpleNamespace(attn_tp_size=1)
    context.get_parallel = lambda: parallel
    found = importlib.import_module("sglang.srt.configs.nemotron_h")

    def load(path: Path, tensor_parallel: int) -> Any:
        parallel.attn_tp_size = tensor_parallel
        config = found.NemotronHConfig.from_json_file(path)
        assert config.mamba2_cache_params is not None
        return config

    return load


def load_mlx(_: Path) -> Load:
    """The installed mlx-lm's class, and a token through a model of it."""
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    mx.set_default_device(mx.cpu)
    found = importlib.import_module("mlx_lm.models.nemotron_h")

    def load(path: Path, _: int) -> Any:
        args = found.ModelArgs.from_dict(json.loads(path.read_text()))
        model = found.Model(args)
        mx.eval(model(mx.array([[1]]), cache=make_prompt_cache(model)))
        return args

    return load


READERS = {
    "transformers": load_transformers,
    "installed": load_installed,
    "sglang": load_sglang,
    "mlx": load_mlx,
}


def answer(load: Load, config: dict[str, Any], tensor_parallel: int) -> dict[str, Any]:
    """What a class makes of a configuration."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config))
        try:
            found = load(path, tensor_parallel)
        except Exception as error:  # whatever the reader raises is its refusal
            return {"error": f"{type(error).__name__}: {error}"}
    sizes = {name: getattr(found, name) for name in SIZES if hasattr(found, name)}
    return {"error": None, "sizes": sizes, "kinds": "".join(found.hybrid_override_pattern)}


if __name__ == "__main__":
    reader = READERS[sys.argv[1]](Path(sys.argv[2]))
    json.dump([answer(reader, config, gpus) for config, gpus in json.load(sys.stdin)], sys.stdout)
