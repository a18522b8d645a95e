"""What a user can cause: the command line prints these on a line each and exits with 2.

Every other exception is a bug and keeps its traceback.
"""


class MinitronError(ValueError):
    """Something that was given cannot be used. The message says the rule, what was found, and a remedy."""


class RecipeError(MinitronError):
    """A recipe or one of its settings cannot be used; the message has one line for each fault."""


class CheckpointError(MinitronError):
    """A checkpoint folder, its configuration or one of its tensors cannot be used."""


class ShapeError(MinitronError):
    """A shape, a plan or an axis that a model family does not allow."""


class DataError(MinitronError):
    """Text, problems or token ids that cannot be used."""


class ArtifactError(MinitronError):
    """A folder that cannot be written or taken as it is: in the way, in use, of other inputs, or out of room."""


class NotFiniteError(MinitronError):
    """What a model computes is NaN or infinite: one of its weights is, or it overflows."""


class BudgetError(MinitronError):
    """A workload, a device or limits that cannot be meant, or that nothing fits."""
