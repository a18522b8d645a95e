"""Names of tensors that other tools write, read as the published ones.

What a state dict is called in memory, what wrappers put before it, stacks of experts, and names of one release of a
library: each is a row of a table here, and whatever reads a checkpoint sees published names alone.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from minitron.checkpoints.headers import StoredTensor
from minitron.errors import CheckpointError
from minitron.models.axes import entry_names
from minitron.models.families.family import Family
from minitron.models.shape import HybridShape

logger = logging.getLogger(__name__)

# What DDP, torch.compile, FSDP and activation checkpointing put into the names of a state dict that is saved by hand.
WRAPPERS = {r"^module\.": "", r"_orig_mod\.": "", r"_fsdp_wrapped_module\.": "", r"_checkpoint_wrapped_module\.": ""}
# Family -> beginnings of names that releases of transformers wrote (5.3 to 5.22: huggingface/transformers#48075).
RELEASES = {"nemotron_h": {r"^backbone\.embedding\.": "backbone.embeddings."}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spelling:
    """How a checkpoint's files call its tensors.

    Attributes:
        on_disk: Published name -> name in the files, where that is another one.
        in_memory: Whether these are the names of a loaded model, which readers of the source know; a checkpoint that is
            made from it has them, too.
    """

    on_disk: Mapping[str, str]
    in_memory: bool

    def to_write(self, family: Family, name: str) -> str:
        """What a file that is made from such a checkpoint calls a tensor."""
        return family.name_in_memory(name) if self.in_memory else name


PUBLISHED = Spelling(on_disk={}, in_memory=False)


def renamings(model_type: str) -> dict[str, str]:
    """Pattern -> replacement of the names that a loaded model is not called by."""
    return {**WRAPPERS, **RELEASES.get(model_type, {})}


def published_names(
    stored: Mapping[str, StoredTensor], shape: HybridShape
) -> tuple[Mapping[str, StoredTensor], Spelling]:
    """Tensors by their published names, and how the files spell them; what is not known keeps its name.

    Raises:
        CheckpointError: Two tensors are one by their published names.
    """
    declared, family = shape.tensors().keys(), shape.family
    if declared <= stored.keys():
        return stored, PUBLISHED
    known, stacks = {*declared, family.head}, _stacks(shape)
    found: dict[str, StoredTensor] = {}
    on_disk: dict[str, str] = {}
    in_memory = True
    for name, tensor in stored.items():
        plain = _plain(name, family)
        published = _published(plain, family)
        if name in known or (published not in known and published not in stacks):
            published = name
        entries = stacks.get(published)
        parts = {published: tensor} if entries is None else _unstack(tensor, entries)
        twice = sorted(parts.keys() & found.keys())
        if twice:
            raise CheckpointError(f"a tensor must be stored once, {on_disk.get(twice[0], twice[0])} and {name} are one")
        found |= parts
        on_disk |= {each: name for each in parts if each != name}
        in_memory &= entries is None and (published == name or family.name_in_memory(published) == name)
    if on_disk:
        published, name = next(iter(on_disk.items()))
        logger.info("%d tensors are read by their published names, as %s for %s", len(on_disk), published, name)
    return found, Spelling(on_disk=on_disk, in_memory=in_memory and bool(on_disk))


def _plain(name: str, family: Family) -> str:
    for pattern, replacement in renamings(family.model_type).items():
        name = re.sub(pattern, replacement, name)
    return name


def _published(name: str, family: Family) -> str:
    if name.startswith(family.prefix_in_memory) and not name.startswith(family.prefix_on_disk):
        name = family.prefix_on_disk + name.removeprefix(family.prefix_in_memory)
    return _plain(name, family)


def _stacks(shape: HybridShape) -> dict[str, list[str]]:
    """Name of a stack as a loaded model has it, with the published prefix -> published names of its entries."""
    return dict(_stacks_of_blocks(shape))


def _stacks_of_blocks(shape: HybridShape) -> Iterator[tuple[str, list[str]]]:
    for layer, kind in enumerate(shape.hybrid_override_pattern):
        prefix = shape.family.block_prefix.format(layer=layer)
        for spec in shape.family.tensors_of(kind, shape.sizes):
            if spec.stacked is not None and spec.in_memory is not None:
                yield prefix + spec.in_memory, [prefix + name for name in entry_names(spec, shape.sizes)]


def _unstack(stack: StoredTensor, entries: list[str]) -> dict[str, StoredTensor]:
    if not stack.shape or stack.shape[0] != len(entries):
        return {entries[0]: stack}  # whose shape is refused
    entry = replace(stack, shape=stack.shape[1:])
    return {name: replace(entry, start=stack.start + at * entry.nbytes) for at, name in enumerate(entries)}
