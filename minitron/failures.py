"""How the failure of one process ends all processes of a launch, with one word about it."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch import distributed
from torch.distributed.distributed_c10d import _get_default_store  # the launch's own store has no public name

from minitron.distributed import OtherProcessFailedError, Ranks, as_heard
from minitron.errors import MinitronError


@contextmanager
def failing_together(ranks: Ranks) -> Iterator[None]:
    """Lets no process wait for one that has failed, and all raise what that one did.

    A process that fails in the block writes why into the launch's store and leaves the group, which wakes those that
    wait for it. What they fail with then says nothing of the cause: they raise what they find in the store. On CUDA,
    where leaving wakes nobody, the launcher ends those that wait. All processes enter the block together.

    Raises:
        MinitronError: A process failed with it.
        OtherProcessFailedError: Another process failed otherwise.
    """
    if ranks.world_size == 1:
        yield
        return
    word = _Word(ranks)
    try:
        yield
    except MinitronError as error:
        word.give(error)
        raise
    except OtherProcessFailedError:
        raise  # the one that failed says it, and may do so later than those that it has told
    except Exception as error:
        heard = word.hear()
        if heard is not None:
            raise heard from None
        word.give(error)
        raise


# Where no launcher holds the store the first process does: what it says there can be read until it ends.
_kept_stores: list[object] = []


class _Word:
    """What the first process to fail says of it, where the others find it."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        # The store may outlive processes that the launcher starts anew: what was said to others is not for these.
        self._key = ranks.broadcast(f"minitron/failure/{uuid.uuid4().hex}")

    def give(self, error: Exception) -> None:
        """Says why this process fails, unless another one has, and leaves the group."""
        heard = as_heard(error, self._ranks.rank)
        said = json.dumps({"caused_by_user": isinstance(heard, MinitronError), "message": str(heard)})
        with suppress(RuntimeError):  # the process that holds the store may be gone
            store = _get_default_store()
            store.compare_set(self._key, "", said)
            _kept_stores.append(store)
        if self._ranks.device.type == "cpu":
            distributed.destroy_process_group()

    def hear(self) -> Exception | None:
        """What another process has said, if any has."""
        with suppress(RuntimeError):
            store = _get_default_store()
            if store.check([self._key]):
                said = json.loads(store.get(self._key))
                kind = MinitronError if said["caused_by_user"] else OtherProcessFailedError
                return kind(said["message"])
        return None
