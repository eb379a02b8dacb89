"""Check that a prompt leaves room for the text, because the token limits include the prompt."""

from __future__ import annotations

import logging

from tasks.core.base.errors import NightshiftError
from tasks.core.encoder.dual_encoder import DualEncoder

log = logging.getLogger("nightshift.encoder")

LARGE = 0.5  # share of the token limit; a larger prompt is reported


def check_prompt_room(encoder: DualEncoder) -> None:
    """Warn when the prompt of a side takes more than half of its token limit.

    Raises NightshiftError when it takes all, because every text of that side would have the same vector.
    """
    for side, tower in (("query", encoder.query), ("passage", encoder.passage)):
        if not tower.prompt:
            continue
        used = len(tower.tokenize([""])[0])
        facts = f"[encoder] {side}_prompt takes {used} of the {tower.max_tokens} tokens of a {side}"
        if used >= tower.max_tokens:
            raise NightshiftError(
                f"{facts}, so nothing of the text is left: raise [encoder] {side}_tokens, or shorten the prompt"
            )
        if used > LARGE * tower.max_tokens:
            log.warning("%s. Longer texts are cut: raise [encoder] %s_tokens if they matter", facts, side)
