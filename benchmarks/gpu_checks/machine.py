"""What the checks ran on."""

import importlib.metadata
import platform
import shutil
import subprocess
from dataclasses import asdict, dataclass

import torch

from minitron.units import GIB

PACKAGES = ("minitron", "torch", "triton", "transformers", "accelerate", "mamba-ssm", "causal-conv1d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine as data.

    Attributes:
        device: What CUDA calls the card, or cpu.
        memory_gib: Memory of the card that torch sees; None on a CPU.
        driver: The NVIDIA driver's version; None where nvidia-smi does not say.
        cuda: The version of CUDA that torch was built for; None of a CPU build.
        python: Python's version.
        versions: Package -> version; None where it is not installed.
    """

    device: str
    memory_gib: float | None
    driver: str | None
    cuda: str | None
    python: str
    versions: dict[str, str | None]

    def to_json(self) -> dict[str, object]:
        """As JSON."""
        return asdict(self)

    def in_words(self) -> str:
        """As a line."""
        memory = "" if self.memory_gib is None else f", {self.memory_gib:.1f} GiB"
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items() if version)
        return f"{self.device}{memory}, driver {self.driver}, CUDA {self.cuda}, {versions}"


def this_machine(device: str) -> Machine:
    """The machine that this process runs on."""
    on_cuda = device == "cuda"
    return Machine(
        device=torch.cuda.get_device_name() if on_cuda else "cpu",
        memory_gib=torch.cuda.get_device_properties(0).total_memory / GIB if on_cuda else None,
        driver=_driver() if on_cuda else None,
        cuda=torch.version.cuda,
        python=platform.python_version(),
        versions={name: _version(name) for name in PACKAGES},
    )


def lacking_cuda() -> str | None:
    """Why torch finds no CUDA device, in a line; None where it finds one."""
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return f"no CUDA device: torch {torch.__version__} is built without CUDA"
    return f"no CUDA device: torch {torch.__version__} (CUDA {torch.version.cuda}) finds none, see nvidia-smi"


def _driver() -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    asked = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    return answer.stdout.splitlines()[0].strip() if answer.returncode == 0 and answer.stdout else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
