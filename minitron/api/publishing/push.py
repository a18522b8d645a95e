"""Uploading a checkpoint to the Hugging Face hub. Loads no torch."""

from dataclasses import dataclass
from pathlib import Path

from minitron.artifacts.json_files import JsonObject
from minitron.integrations.hub.plan import PushPlan, plan_push
from minitron.integrations.hub.upload import upload


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """An upload, or what one would hold.

    Attributes:
        plan: Files, card, and what is the matter with the card.
        commit: Address of the commit; None where nothing was uploaded.
    """

    plan: PushPlan
    commit: str | None = None

    def to_json(self) -> JsonObject:
        """The object that `minitron push --json` prints."""
        return {**self.plan.to_json(), "commit": self.commit}


def push(
    checkpoint: str | Path, repo: str, *, yes: bool = False, public: bool = False, message: str | None = None
) -> Pushed:
    """Uploads a checkpoint with its model card to the Hugging Face hub; by default only says what it would upload.

    The card has the results of the run that the checkpoint lies in. Run state, locks, unfinished folders and files
    that are no part of the checkpoint stay here.

    Args:
        checkpoint: Folder of a whole checkpoint.
        repo: Repository on the hub, as owner/name; made where there is none.
        yes: Upload.
        public: Make a new repository public; it is private else. One that is there stays as it is.
        message: The commit's message.

    Returns:
        `plan` (files with their bytes, what is left out, the card and its problems) and `commit`, the address.

    Raises:
        MinitronError: The folder is no whole checkpoint; or, uploading, there is no token, or the hub cannot be
            reached or refuses.

    Example:
        ```python
        found = minitron.push("runs/quickstart/distill/checkpoint", "me/small-hybrid")
        print(found.plan.total_bytes, found.plan.problems, found.commit)
        ```
    """
    plan = plan_push(Path(checkpoint), repo, private=not public)
    if not yes:
        return Pushed(plan=plan)
    return Pushed(plan=plan, commit=upload(plan, message=message or "Upload by minitron"))
