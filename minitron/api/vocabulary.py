"""Cutting a checkpoint's vocabulary."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from minitron.api.checks import require_seed, require_sources
from minitron.api.text import Text, source_settings
from minitron.artifacts.artifact import move_up, write_artifact
from minitron.artifacts.finished import finished_or_refused
from minitron.artifacts.json_files import JsonObject, read_record
from minitron.checkpoints.checkpoint import VOCABULARY_FILE, checkpoint_hashes, open_checkpoint
from minitron.checkpoints.hub import find_checkpoint
from minitron.pipeline import fingerprints
from minitron.pipeline.run_folder import CHECKPOINT_FOLDER
from minitron.pipeline.vocabulary.cut import cut_vocabulary as write_cut
from minitron.recipe.load import make_section
from minitron.recipe.prune import VocabularySection
from minitron.vocabulary.record import VocabularyRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class CutVocabulary:
    """A checkpoint whose vocabulary was cut: its folder, and what the cut did."""

    output: Path
    record: VocabularyRecord

    def to_json(self) -> JsonObject:
        """As JSON."""
        return {"output": str(self.output), **asdict(self.record)}


def cut_vocabulary(
    checkpoint: str | Path,
    data: Text,
    *,
    output: str | Path,
    settings: Mapping[str, object],
    seed: int = 0,
) -> CutVocabulary:
    """Cuts a checkpoint's vocabulary to the tokens that a text uses: embeddings, head, tokenizer and named ids.

    Logits of kept tokens are the checkpoint's own. Text that uses others falls apart into kept ones. All single bytes,
    special and added tokens, and what kept tokens are merged from are kept.

    Args:
        checkpoint: Hugging Face checkpoint folder, or its name on the hub.
        data: Text whose tokens are counted: a path or a dataset's name, a mapping of a source's settings, or several.
        output: Folder that is new, empty, or holds such a cut.
        settings: How many tokens are kept, as `{"size": 24576}`, `{"coverage": 0.9999}` or `{"min_count": 3}`, and any
            other setting of a recipe's `prune.vocabulary`.
        seed: Fixes which text is counted where not all is.

    Returns:
        The new folder, tokens and parameters before and after, the share of the text's tokens that are kept, and
        lengths of the text and of sentences in a dozen languages in tokens of both vocabularies.

    Raises:
        MinitronError: The checkpoint, its kind of tokenizer, the text or a setting cannot be used.

    Example:
        ```python
        cut = minitron.cut_vocabulary("teacher/", "text.jsonl", output="cut/", settings={"size": 24576})
        print(cut.record.after, cut.record.coverage)
        ```
    """
    require_seed(seed)
    section = make_section(VocabularySection, {"data": source_settings(data), **settings})
    return cut_checkpoint_vocabulary(find_checkpoint(checkpoint), Path(output), section, seed=seed)


def cut_checkpoint_vocabulary(
    checkpoint: Path, output: Path, section: VocabularySection, *, seed: int = 0, shard_gib: float = 4.0
) -> CutVocabulary:
    """Cuts a checkpoint's vocabulary, as `cut_vocabulary` does.

    Raises:
        MinitronError: The checkpoint, its kind of tokenizer, the text or a setting cannot be used.
    """
    source = open_checkpoint(checkpoint)
    require_sources(section.data, checkpoint)
    inputs: JsonObject = {
        **checkpoint_hashes(checkpoint),
        "vocabulary": fingerprints.kept_tokens(section),
        "shard_gib": shard_gib,
        "seed": seed,
    }
    if finished_or_refused(output, inputs) is None:
        with write_artifact(output, stage="vocabulary", inputs=inputs, seed=seed) as partial:
            write_cut(source, section, partial / CHECKPOINT_FOLDER, seed=seed, shard_gib=shard_gib)
            move_up(partial / CHECKPOINT_FOLDER)
    return CutVocabulary(output=output, record=read_record(output / VOCABULARY_FILE, VocabularyRecord))
