"""The commands that a run takes: what needs one process, and what several devices or machines share."""

import shlex
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from minitron.dry_run.stages import PlannedStage
from minitron.recipe.devices import DevicesSection

FIRST_MACHINE = "FIRST_MACHINE_IP"
THIS_MACHINE = "THIS_MACHINE"
PORT = 29500


def plan_launch(
    stages: Sequence[PlannedStage], arguments: Sequence[str], devices: DevicesSection | None
) -> list[dict[str, Any]]:
    """The commands in order, each with the stages that it runs.

    Args:
        stages: The run's stages in order.
        arguments: The recipe and whatever else goes with it.
        devices: What training runs on; one device when None.
    """
    if devices is None or devices.count == 1:
        names = [stage.name for stage in stages]
        steps = [{"stages": names, "commands": [_words("minitron", "run", *arguments)]}]
        if "distill" in names:
            steps.append({"stages": names[: names.index("distill") + 1], "commands": [_distill(arguments)]})
        return [{**step, "alternative": number > 0} for number, step in enumerate(steps)]
    found = []
    groups = [(shared, [stage.name for stage in group]) for shared, group in groupby(stages, lambda each: each.shared)]
    for number, (shared, names) in enumerate(groups):
        verb = ["run", *arguments, "--to", names[-1]]
        if names[-1] == "distill":
            verb = ["distill", *arguments]
        elif number == len(groups) - 1:
            verb = ["run", *arguments]
        commands = _launchers(verb, devices) if shared else [_words("minitron", *verb)]
        found.append({"stages": names, "commands": commands, "alternative": False})
    return found


def _launchers(verb: Sequence[str], devices: DevicesSection) -> list[str]:
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
    return [
        _words("accelerate", "launch", "--multi_gpu", *machines, "-m", "minitron", *verb),
        _words("torchrun", *rendezvous, "-m", "minitron", *verb),
    ]


def _distill(arguments: Sequence[str]) -> str:
    return _words("minitron", "distill", *arguments)


def _words(*words: str) -> str:
    return shlex.join(words)
