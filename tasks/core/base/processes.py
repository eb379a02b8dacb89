"""Child processes that end with this process, even if it is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

# Asks Linux to kill the child when its parent dies, then replaces itself with the command. This needs an interpreter
# in the child, because code between fork and exec (`preexec_fn`) may deadlock in a process with threads.
_LAUNCHER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def command_that_ends_with_parent(command: Sequence[str]) -> list[str]:
    """Return a command that runs `command` and that Linux kills when the thread that started it ends.

    Args:
        command: Absolute path of the program, then its arguments.
    """
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]


def exit_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent ends, even if it is killed. Exit now if it has already ended.

    Args:
        parent: Process id of the parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(1)
