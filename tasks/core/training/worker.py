"""Entry point of each training process: torchrun starts this module."""

from __future__ import annotations

import sys
from pathlib import Path

from tasks.core.training.launch import run_worker

if __name__ == "__main__":
    run_worker(Path(sys.argv[1]))
