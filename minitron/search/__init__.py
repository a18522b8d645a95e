"""Shape + budget -> ranked Candidates. Arithmetic alone: no torch is loaded."""

from minitron.search.devices import VISIBLE_GIB, usable_bytes, visible_bytes
from minitron.search.fit import FitReport, fit
from minitron.search.memory import DTYPE_BITS, GIB, MemoryBytes, Workload, memory_bytes
from minitron.search.solve import Candidate, NothingFitsError, SearchResult, solve_budget

__all__ = [
    "DTYPE_BITS",
    "GIB",
    "VISIBLE_GIB",
    "Candidate",
    "FitReport",
    "MemoryBytes",
    "NothingFitsError",
    "SearchResult",
    "Workload",
    "fit",
    "memory_bytes",
    "solve_budget",
    "usable_bytes",
    "visible_bytes",
]
