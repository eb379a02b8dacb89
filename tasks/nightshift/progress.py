"""Progress bars on the terminal and in notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tasks.core.base.progress import listening


@contextmanager
def progress_bars(show: bool = True) -> Iterator[None]:
    """Show a bar for each long step while the block runs; it disappears when the step is finished."""
    from tqdm.auto import tqdm

    bars: dict[str, Any] = {}

    def listen(stage: str, done: int, total: int) -> None:
        bar = bars.get(stage) or bars.setdefault(stage, tqdm(desc=stage, total=total, leave=False, disable=not show))
        bar.update(done - bar.n)
        if done >= total:
            bars.pop(stage).close()

    try:
        with listening(listen):
            yield
    finally:
        for bar in bars.values():
            bar.close()
