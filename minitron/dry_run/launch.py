"""The commands that start a run: `minitron` for one process, `accelerate` or `torchrun` for several devices."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from minitron.pipeline.stage_list import Stage
from minitron.recipe.devices import DevicesSection

FIRST_MACHINE = "FIRST_MACHINE_IP"
THIS_MACHINE = "THIS_MACHINE"
PORT = 29500


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchStep:
    """Commands of which one is typed.

    Attributes:
        stages: Names of the stages that it runs.
        commands: The same by different launchers.
        alternative: Whether it stands in for the step before it.
    """

    stages: tuple[str, ...]
    commands: tuple[str, ...]
    alternative: bool = False


def plan_launch(
    stages: Sequence[Stage], arguments: Sequence[str], devices: DevicesSection | None
) -> tuple[LaunchStep, ...]:
    """The steps of a run in order: one for all of its stages, and what may stand in for it.

    Args:
        stages: The run's stages in order.
        arguments: The recipe and whatever else goes with it.
        devices: What it runs on; one device when None.
    """
    names = tuple(stage.name for stage in stages)
    if devices is not None and devices.count > 1:
        return (LaunchStep(stages=names, commands=_launchers(["run", *arguments], devices)),)
    to_student = names[: names.index("distill") + 1]
    return (
        LaunchStep(stages=names, commands=(_words("minitron", "run", *arguments),)),
        LaunchStep(stages=to_student, commands=(_words("minitron", "distill", *arguments),), alternative=True),
    )


def _launchers(command: Sequence[str], devices: DevicesSection) -> tuple[str, ...]:
    """By accelerate, and by torchrun."""
    machines = ["--num_machines", str(devices.nodes), "--num_processes", str(devices.count)]
    rendezvous = ["--nproc-per-node", str(devices.gpus_per_node)]
    if devices.nodes == 1:
        rendezvous = ["--standalone", *rendezvous]
    else:
        place = ["--machine_rank", THIS_MACHINE, "--main_process_ip", FIRST_MACHINE, "--main_process_port", str(PORT)]
        machines += place
        rendezvous = ["--nnodes", str(devices.nodes), "--node-rank", THIS_MACHINE, *rendezvous]
        rendezvous += ["--master-addr", FIRST_MACHINE, "--master-port", str(PORT)]
    return (
        _words("accelerate", "launch", "--multi_gpu", *machines, "-m", "minitron", *command),
        _words("torchrun", *rendezvous, "-m", "minitron", *command),
    )


def _words(*words: str) -> str:
    return shlex.join(words)
