"""Child processes that end with this one, also when it is killed and can end nobody any more."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

# Asks Linux to kill the child when its parent dies, and becomes the command. Done in the child's own interpreter,
# because code between fork and exec (`preexec_fn`) may deadlock in a process with threads.
_LAUNCHER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def command_that_ends_with_parent(command: Sequence[str]) -> list[str]:
    """`command`, the first word an absolute path, as a child that Linux kills when the thread that starts it ends."""
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]


def exit_with_parent(parent: int) -> None:
    """Let Linux kill this process when its parent ends, also when that was killed; end now when it already has."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
