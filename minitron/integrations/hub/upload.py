"""The upload of a checkpoint to the Hugging Face hub, in one commit."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from minitron.checkpoints.checkpoint import CARD_FILE
from minitron.errors import CheckpointError
from minitron.integrations.hub.plan import PushPlan

logger = logging.getLogger(__name__)

LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


def upload(plan: PushPlan, *, message: str, endpoint: str | None = None) -> str:
    """Uploads what a plan holds, in one commit; makes the repository where there is none.

    Args:
        plan: What is uploaded.
        message: The commit's message.
        endpoint: The hub's address; what huggingface_hub is set to when None.

    Returns:
        The commit's address.

    Raises:
        CheckpointError: There is no token, the hub cannot be reached, or it refuses.
    """
    import huggingface_hub  # 0.2 s to import, needed for this alone

    if huggingface_hub.get_token() is None:
        raise CheckpointError(f"an upload needs a token that may write, there is none: {LOG_IN}")
    api = huggingface_hub.HfApi(endpoint=endpoint)
    operations = [
        huggingface_hub.CommitOperationAdd(
            path_in_repo=name,
            path_or_fileobj=plan.card.encode() if name == CARD_FILE else str(plan.checkpoint / name),
        )
        for name in plan.files
    ]
    logger.info("%d files, %d bytes, go to %s", len(plan.files), plan.total_bytes, plan.repo)
    with _reporting(plan.repo):
        api.create_repo(plan.repo, private=plan.private, exist_ok=True)
        return str(api.create_commit(plan.repo, operations, commit_message=message).commit_url)


@contextmanager
def _reporting(repo: str) -> Iterator[None]:
    """Says in one line what the hub, or the way to it, has against an upload."""
    from huggingface_hub import errors

    try:
        yield
    except errors.HFValidationError as error:
        raise CheckpointError(f"a repository must be owner/name, got {repo!r}: {error}") from error
    except errors.OfflineModeIsEnabled as error:
        raise CheckpointError("the hub is not asked: unset HF_HUB_OFFLINE to upload") from error
    except errors.HTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise CheckpointError(
                f"{repo} cannot be written with the token that is set (the hub answered {status}): {LOG_IN} anew, "
                "with a token that may write there"
            ) from error
        reason = f"it answered {status}" if status else type(error).__name__
        raise CheckpointError(f"{repo} cannot be uploaded to the hub now ({reason}); try again later") from error
