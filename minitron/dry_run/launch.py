"""The commands that start a run: `minitron` for one process, `accelerate` or `torchrun` for several devices."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

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
    """The steps of a run in order.

    Args:
        stages: The run's stages in order.
        arguments: The recipe and whatever else goes with it.
        devices: What training runs on; one device when None.
    """
    if devices is None or devices.count == 1:
        names = tuple(stage.name for stage in stages)
        to_student = names[: names.index("distill") + 1]
        return (
            LaunchStep(stages=names, commands=(_words("minitron", "run", *arguments),)),
            LaunchStep(stages=to_student, commands=(_words("minitron", "distill", *arguments),), alternative=True),
        )
    steps = []
    groups = [(shared, tuple(stage.name for stage in group)) for shared, group in groupby(stages, lambda s: s.shared)]
    for shared, names in groups:
        command = ["run", *arguments, "--to", names[-1]]
        if names[-1] == "distill":
            command = ["distill", *arguments]
        elif names[-1] == stages[-1].name:
            command = ["run", *arguments]
        commands = _launchers(command, devices) if shared else (_words("minitron", *command),)
        steps.append(LaunchStep(stages=names, commands=commands))
    return tuple(steps)


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
