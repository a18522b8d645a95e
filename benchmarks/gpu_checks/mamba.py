"""Mamba's CUDA kernels, where they are installed: a mixer by them against the same mixer by torch in fp32."""

# B sequences, T tokens, D hidden, H Mamba heads

import copy
import importlib
import importlib.metadata
import importlib.util
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from published import NANO_12B
from torch import nn
from training_steps import make_model, make_shape
from transformers.models.nemotron_h import modeling_nemotron_h as modeling

from gpu_checks.kernel import relative_error
from gpu_checks.row import Row, not_run, within
from gpu_checks.target import Target

# Package -> what it is called in an environment.
PACKAGES = {"causal_conv1d": "causal-conv1d", "mamba_ssm": "mamba-ssm"}
# Functions of transformers that take a kernel where its package imports, else torch.
FUNCTIONS = ("causal_conv1d_fn", "mamba2_split_conv1d_scan_combined", "mamba2_chunk_scan")
ALLOWED = 3  # errors of torch in bf16, which rounds at other places


def run(target: Target) -> Iterator[Row]:
    """Whether each package imports; errors of a mixer's output and gradient; times beside torch's."""
    found = [_import_row(module) for module in PACKAGES]
    yield from found
    if not any(row.state == "ok" for row in found):
        yield not_run("a mixer by the kernels", "no kernel imports: torch computes Mamba, several times slower")
    elif not target.on_cuda:
        yield not_run("a mixer by the kernels", "they take CUDA alone")
    else:
        yield from compare_mixers(target)


def _import_row(module: str) -> Row:
    package = PACKAGES[module]
    title = f"import of {package}"
    if importlib.util.find_spec(module) is None:
        return not_run(title, "not installed: pip install --no-build-isolation 'minitron[cuda]', after torch")
    try:
        importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:  # built for another torch or CUDA
        return Row(measured=title, state="failed", note=str(error).splitlines()[0])
    return Row(measured=title, note=importlib.metadata.version(package))


def compare_mixers(target: Target) -> Iterator[Row]:
    """Rows of a mixer in bf16 as transformers runs it here against itself by torch in fp32."""
    shape = make_shape(replace(NANO_12B, hybrid_override_pattern="M*"), blocks=None, shrink=target.sizes.shrink)
    mixer = make_model(replace(shape, vocab_size=64), target.device, torch.float32).model.layers[0].mixer
    set_strong_weights_(mixer)
    exact, narrow = mixer, copy.deepcopy(mixer).to(torch.bfloat16)
    hidden_BTD = torch.randn(1, target.sizes.mixer_tokens, shape.hidden_size, device=target.device).bfloat16()
    for training in (False, True):
        mode = "training" if training else "inference"
        with torch_alone():
            truth, true_grad, _ = _pass(target, exact.train(training), hidden_BTD.float())
            usual, usual_grad, _ = _pass(target, narrow.train(training), hidden_BTD)
            _, _, torch_s = _pass(target, narrow, hidden_BTD)
        found, grad, _ = _pass(target, narrow, hidden_BTD)  # compiles
        _, _, seconds = _pass(target, narrow, hidden_BTD)
        for title, value, torch_value, true in (
            ("output", found, usual, truth),
            ("gradient of input", grad, usual_grad, true_grad),
        ):
            allowed = ALLOWED * relative_error(torch_value, true)
            yield within(f"mixer, {mode}: {title}", relative_error(value, true), allowed)
        yield Row(
            measured=f"mixer, {mode}: forward and backward",
            value=seconds,
            unit="s",
            reference=torch_s,
            reference_is="torch, bf16",
        )


def set_strong_weights_(mixer: Any) -> None:
    """Weights by which the state matters, in place: of new ones it is a millionth of the output."""
    generator = torch.Generator(mixer.A_log.device).manual_seed(0)
    with torch.no_grad():
        mixer.in_proj.weight.normal_(0, 2 / mixer.in_proj.in_features**0.5, generator=generator)
        mixer.out_proj.weight.normal_(0, 1 / mixer.out_proj.in_features**0.5, generator=generator)
        mixer.conv1d.weight.normal_(0, 0.5, generator=generator)
        mixer.dt_bias.uniform_(-3, -1, generator=generator)
        mixer.A_log.copy_(torch.linspace(0.02, 1, len(mixer.A_log)).log())


@contextmanager
def torch_alone() -> Iterator[None]:
    """Makes transformers compute Mamba by torch, whatever is installed."""
    usual = {name: getattr(modeling, name) for name in FUNCTIONS}
    try:
        for name, function in usual.items():
            setattr(modeling, name, inspect.unwrap(function))
        yield
    finally:
        for name, function in usual.items():
            setattr(modeling, name, function)


def _pass(target: Target, mixer: nn.Module, hidden_BTD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Output, gradient of the input and seconds of one pass forward and back."""
    hidden_BTD = hidden_BTD.detach().requires_grad_()
    started = target.now()
    output_BTD = mixer(hidden_BTD)
    (grad_BTD,) = torch.autograd.grad(output_BTD.float().square().mean(), hidden_BTD)
    return output_BTD.detach(), grad_BTD, target.now() - started
