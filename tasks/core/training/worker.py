"""The module that torchrun starts in each process."""

from __future__ import annotations

import sys
from pathlib import Path

from tasks.core.training.launch import work

if __name__ == "__main__":
    work(Path(sys.argv[1]))
