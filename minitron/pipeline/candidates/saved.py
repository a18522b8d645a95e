"""What has been measured of a search's candidates so far, in a file that an interrupted search resumes from."""

from dataclasses import asdict, dataclass
from pathlib import Path

from minitron.artifacts.json_files import read_record, write_json
from minitron.distributed import Ranks
from minitron.pipeline.candidates.bench import Measurement
from minitron.search.record import HeldOut
from minitron.search.tournament import Standing

MEASURED_FILE = "measured.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class _MeasuredFile:
    """Entries of (candidate, result), and of ((candidate, tokens), result) of a tournament."""

    zero_shot: tuple[tuple[int, HeldOut], ...] = ()
    repaired: tuple[tuple[int, HeldOut], ...] = ()
    standings: tuple[tuple[tuple[int, int], Standing], ...] = ()


class SavedMeasurements:
    """Results so far; each one is saved as it comes, and the file is replaced atomically.

    Args:
        folder: Where the file lies.
        ranks: Processes that all keep the same results; the first one reads and writes the file. This one alone when
            None.

    Attributes:
        measured: Candidate -> what it measures without training.
        standings: (candidate, tokens) -> its standing in a tournament.
    """

    def __init__(self, folder: Path, ranks: Ranks | None = None) -> None:
        ranks = ranks or Ranks.alone()
        self._path, self._writes = folder / MEASURED_FILE, ranks.is_main
        found = ranks.on_main(self._read)
        repaired = dict(found.repaired)
        self.measured = {
            index: Measurement(zero_shot=zero_shot, repaired=repaired.get(index))
            for index, zero_shot in found.zero_shot
        }
        self.standings: dict[tuple[int, int], Standing] = dict(found.standings)

    def add(self, index: int, measured: Measurement) -> None:
        """Keeps what a candidate measures."""
        self.measured[index] = measured
        self._save()

    def add_standing(self, index: int, tokens: int, standing: Standing) -> None:
        """Keeps a candidate's standing after a round."""
        self.standings[index, tokens] = standing
        self._save()

    def _read(self) -> _MeasuredFile:
        return read_record(self._path, _MeasuredFile) if self._path.is_file() else _MeasuredFile()

    def _save(self) -> None:
        if not self._writes:
            return
        in_order = sorted(self.measured.items())
        kept = _MeasuredFile(
            zero_shot=tuple((index, each.zero_shot) for index, each in in_order),
            repaired=tuple((index, each.repaired) for index, each in in_order if each.repaired is not None),
            standings=tuple(self.standings.items()),
        )
        write_json(self._path, asdict(kept))
