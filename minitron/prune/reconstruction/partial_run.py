"""One of the student's blocks over the calibration streams, run no further than what is asked for and not yet known."""

# B samples, T tokens, D hidden, C inputs of a projection

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import nn

from minitron.models.families.family import Branch
from minitron.prune.reconstruction.aligned_streams import AlignedStreams
from minitron.runtime.backbone import Block
from minitron.runtime.hooks import Activations, HookSite, collecting
from minitron.runtime.streams import Streams


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What a pass over one batch has shown.

    Attributes:
        number: Which batch.
        mask_BT: Which of its tokens are no padding; all when None.
        shown: Name of a site -> the activation there.
    """

    number: int
    mask_BT: torch.Tensor | None
    shown: Mapping[str, torch.Tensor]


class PartialRun:
    """Passes of one block, each of which ends where the last thing that it looks at was shown.

    A mixer whose output projection has been refitted is not run again: its projection is applied once to the inputs
    that it was refitted on, and what it gave is put in the mixer's place. That gives the same bits, as blocks are
    refitted front to back, so that nothing before a refitted projection changes.

    Args:
        streams: The streams that enter the block.
        own: The block.
        position: Its index.
    """

    def __init__(self, streams: AlignedStreams, own: Block, position: int) -> None:
        self.own, self.position = own, position
        self._streams = streams
        self._mixers: list[_Mixer] = []

    def passes(self, sites: Mapping[str, HookSite]) -> Iterator[Pass]:
        """A pass over every batch, up to where the last of these sites is shown."""
        for number, mask_BT in self._streams.student_masks():
            shown: dict[str, torch.Tensor] = {}
            seen = [(self.own[1], site, _Seen(name, shown, len(sites))) for name, site in sites.items()]
            with ExitStack() as stack:
                stack.enter_context(collecting(seen))
                for mixer in self._mixers:
                    stack.enter_context(mixer.known(number))
                with suppress(_AllSeenError):
                    self._streams.run_student(self.own, number, mask_BT, self.position)
            yield Pass(number=number, mask_BT=mask_BT, shown=shown)

    @contextmanager
    def learning(self, branch: Branch) -> Iterator[None]:
        """Passes inside the `with` keep the inputs of a branch's projection, which is refitted before the next pass."""
        mixer = _Mixer(self.own[1], branch.projection, self._streams.scratch(branch.projection))
        with mixer.learning():
            yield
        self._mixers.append(mixer)

    def advance(self) -> None:
        """Takes the student's streams through the block as it is now, and forgets what was kept."""
        for each in self.passes({"after": HookSite()}):
            self._streams.student.write(each.number, self.position + 1, each.shown["after"])
        self.forget()

    def forget(self) -> None:
        """Forgets what was kept, after which mixers are run again: for when anything else in the block changes."""
        for mixer in self._mixers:
            mixer.forget()
        self._mixers = []


class _Mixer:
    """The module whose output is a projection's, and what the projection was given or gave, batch by batch."""

    def __init__(self, block: nn.Module, projection: str, kept: Streams) -> None:
        path = projection.rpartition(".")[0]
        outside, _, self._name = path.rpartition(".")
        self._outside, self._mixer = block.get_submodule(outside), block.get_submodule(path)
        self._projection = block.get_submodule(projection)
        self._kept = kept
        self._applied: set[int] = set()  # batches of which the projection's output is kept in place of its input
        self._batch = 0  # the next one to be learned
        self._gave: torch.Tensor | None = None
        # What the mixer returns: a tensor or a tuple of some length; 0 where it is not the projection's output.
        self._returns: int | None = None

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Passes inside the `with` are of the batches in order, and each runs the projection once."""
        hooks = (
            self._projection.register_forward_hook(self._hear_projection),
            self._mixer.register_forward_hook(self._hear_mixer),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def known(self, number: int) -> Iterator[None]:
        """The mixer gives, inside the `with`, what its projection as it is now makes of a batch."""
        if self._returns == 0:
            yield
            return
        kept = self._kept.read(number, 0)
        if number not in self._applied:
            kept = self._projection(kept)
            self._kept.write(number, 0, kept)
            self._applied.add(number)
        setattr(self._outside, self._name, _Gives(kept, self._returns))
        try:
            yield
        finally:
            setattr(self._outside, self._name, self._mixer)

    def forget(self) -> None:
        """Removes what is kept."""
        self._kept.settle(-1)

    def _hear_projection(self, _module: nn.Module, args: Activations, output: torch.Tensor) -> None:
        self._kept.write(self._batch, 0, args[0])
        self._gave = output
        self._batch += 1

    def _hear_mixer(self, _module: nn.Module, _args: Activations, output: torch.Tensor | Activations) -> None:
        first = output[0] if isinstance(output, tuple) else output
        if first is not self._gave:
            self._returns = 0
        elif isinstance(output, tuple) and self._returns != 0:
            self._returns = len(output)
        self._gave = None


class _Gives(nn.Module):
    """Stands in for a mixer: gives a tensor, in a tuple of some length where the mixer gives one."""

    def __init__(self, value: torch.Tensor, length: int | None) -> None:
        super().__init__()
        self._value, self._length = value, length

    def forward(self, *_args: object, **_kwargs: object) -> torch.Tensor | tuple[torch.Tensor | None, ...]:
        """The tensor, whatever is asked."""
        if self._length is None:
            return self._value
        return (self._value, *[None] * (self._length - 1))


class _AllSeenError(Exception):
    """Everything that a pass looks at has been shown."""


class _Seen:
    """Keeps what a pass shows at one of several sites, and ends the pass after the last of them."""

    def __init__(self, name: str, shown: dict[str, torch.Tensor], sites: int) -> None:
        self._name, self._shown, self._sites = name, shown, sites

    def update(self, activations: Activations, mask_BT: torch.Tensor | None) -> None:
        """Keeps the activation."""
        self._shown[self._name] = activations[0]
        if len(self._shown) == self._sites:
            raise _AllSeenError
