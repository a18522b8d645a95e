"""What processes that tests start have imported: `tests.support.processes` forks them from one that imported this."""

import gc
import os

os.environ["HF_HUB_OFFLINE"] = "1"

import accelerate  # noqa: F401
import torch
import transformers
from transformers import AutoModelForCausalLM, NemotronHForCausalLM, Trainer  # noqa: F401

import minitron.cli.main
import minitron.distill.training.stage
import minitron.importance.calibrate
import minitron.pipeline.runner
import minitron.prune.checkpoint  # noqa: F401

torch.set_num_threads(1)
transformers.utils.logging.disable_progress_bar()
gc.freeze()
