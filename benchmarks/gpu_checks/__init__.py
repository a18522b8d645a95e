"""What `gpu_check.py` runs: a file a check, each in a process of its own."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A check as data; its module has `run(target)`, which yields rows.

    Attributes:
        title: What it is about.
        share: Its share of the time that all may take.
    """

    title: str
    share: float


# By the module's name, in the order in which they run.
CHECKS = {
    "kernel": Check(title="the loss's kernel against the loss in torch", share=0.1),
    "loss": Check(title="time and memory of the loss against its floor", share=0.15),
    "training": Check(title="training steps of distillation", share=0.4),
    "scoring": Check(title="layerwise scoring", share=0.2),
    "mamba": Check(title="Mamba's kernels against torch", share=0.1),
}
