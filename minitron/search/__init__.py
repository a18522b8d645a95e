"""Shape + budget -> ranked Candidates. Arithmetic alone: no torch is loaded."""

from minitron.search.devices import DEVICES, Device, find_device, usable_bytes
from minitron.search.fit import FitReport, fit, serve_command
from minitron.search.limits import Limits
from minitron.search.memory import MemoryBytes, block_bytes, memory_bytes
from minitron.search.precision import CACHE_BITS, WEIGHT_FORMATS
from minitron.search.solve import RANKINGS, Candidate, NothingFitsError, SearchResult, solve_budget
from minitron.search.space import SearchSpace, size_range
from minitron.search.throughput import Lengths, ServingCost, predict_tokens_per_second, tokens_per_second
from minitron.search.training import (
    StageLength,
    device_hours,
    forward_operations,
    head_params,
    stage_length,
    training_operations,
)
from minitron.search.training_memory import (
    TrainingBytes,
    longest_block,
    training_bytes,
    training_verdict,
    writing_bytes,
)
from minitron.search.training_setup import OPTIMIZER_BYTES, TrainingSetup
from minitron.search.workload import ACCOUNTINGS, GIB, Engine, Workload

__all__ = [
    "ACCOUNTINGS",
    "CACHE_BITS",
    "DEVICES",
    "GIB",
    "OPTIMIZER_BYTES",
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
    "StageLength",
    "TrainingBytes",
    "TrainingSetup",
    "Workload",
    "block_bytes",
    "device_hours",
    "find_device",
    "fit",
    "forward_operations",
    "head_params",
    "longest_block",
    "memory_bytes",
    "predict_tokens_per_second",
    "serve_command",
    "size_range",
    "solve_budget",
    "stage_length",
    "tokens_per_second",
    "training_bytes",
    "training_operations",
    "training_verdict",
    "usable_bytes",
    "writing_bytes",
]
