"""Names of tensors that other tools write, read as the published ones.

What a state dict is called in memory, what wrappers put before it, stacks of experts, and names of one release of a
library: each is a row of a table here, and whatever reads a checkpoint sees published names alone.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from minitron.checkpoints.headers import StoredTensor
from minitron.checkpoints.places import Place, block_places
from minitron.errors import CheckpointError
from minitron.models.families.family import Family
from minitron.models.shape import HybridShape
from minitron.models.text_config import TEXT_MODELS

logger = logging.getLogger(__name__)

# What DDP, torch.compile, FSDP and activation checkpointing put into the names of a state dict that is saved by hand.
WRAPPERS = {r"^module\.": "", r"_orig_mod\.": "", r"_fsdp_wrapped_module\.": "", r"_checkpoint_wrapped_module\.": ""}
# Family -> beginnings of names that releases of transformers wrote (5.3 to 5.22: huggingface/transformers#48075).
RELEASES = {"nemotron_h": {r"^backbone\.embedding\.": "backbone.embeddings."}}
# What models that see, too, call their text model: as published, and as transformers wrote up to 4.51.
INSIDE = {
    r"^model\.language_model\.": "model.",
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}
# Dims of a stack of matrices.
STACK_DIMS = 3


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
    inside = INSIDE if any(text.model_type == model_type for text in TEXT_MODELS.values()) else {}
    return {**WRAPPERS, **RELEASES.get(model_type, {}), **inside}


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
        parts = {published: tensor} if entries is None else _unstack(tensor, published, entries)
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


def _stacks(shape: HybridShape) -> dict[str, dict[str, Place]]:
    """Name of a tensor as a loaded model has it, with the published prefix -> published names of what is in it."""
    family = shape.family
    found: dict[str, dict[str, Place]] = {}
    for layer, kind in enumerate(shape.hybrid_override_pattern):
        prefix = family.block_prefix.format(layer=layer)
        for name, place in block_places(family, kind, shape.sizes).items():
            if name != place.name:
                found.setdefault(prefix + place.name, {})[prefix + name] = place
    return found


def _unstack(stack: StoredTensor, name: str, entries: Mapping[str, Place]) -> dict[str, StoredTensor]:
    """The tensors that a stack of a loaded model holds; itself, whose shape is refused, where it holds others."""
    if len(entries) == 1 and next(iter(entries.values())).entry is None:
        return dict.fromkeys(entries, stack)
    number = 1 + max(place.entry or 0 for place in entries.values())
    parts = next(iter(entries.values())).fused[1]
    if len(stack.shape) != STACK_DIMS or stack.shape[0] != number or stack.shape[1] % parts:
        return {name: stack}
    part = replace(stack, shape=(stack.shape[1] // parts, *stack.shape[2:]))
    return {
        published: replace(part, start=stack.start + ((place.entry or 0) * parts + place.fused[0]) * part.nbytes)
        for published, place in entries.items()
    }
