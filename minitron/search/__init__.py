"""Shape + budget -> ranked Candidates. Arithmetic alone: no torch is loaded."""

from minitron.search.devices import DEVICES, Device, find_device, usable_bytes
from minitron.search.fit import FitReport, fit, serve_command
from minitron.search.limits import Limits
from minitron.search.memory import MemoryBytes, block_bytes, memory_bytes
from minitron.search.precision import CACHE_BITS, WEIGHT_FORMATS
from minitron.search.solve import RANKINGS, Candidate, NothingFitsError, SearchResult, solve_budget
from minitron.search.space import SearchSpace, size_range
from minitron.search.throughput import Lengths, ServingCost, predict_tokens_per_second, tokens_per_second
from minitron.search.workload import ACCOUNTINGS, GIB, Engine, Workload

__all__ = [
    "ACCOUNTINGS",
    "CACHE_BITS",
    "DEVICES",
    "GIB",
    "RANKINGS",
    "WEIGHT_FORMATS",
    "Candidate",
    "Device",
    "Engine",
    "FitReport",
    "Lengths",
    "Limits",
    "MemoryBytes",
    "NothingFitsError",
    "SearchResult",
    "SearchSpace",
    "ServingCost",
    "Workload",
    "block_bytes",
    "find_device",
    "fit",
    "memory_bytes",
    "predict_tokens_per_second",
    "serve_command",
    "size_range",
    "solve_budget",
    "tokens_per_second",
    "usable_bytes",
]
