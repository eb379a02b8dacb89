"""Generates queries for passages with a language model.

Few-shot query generation is that of InPars (Bonifacio et al. 2022, arXiv:2202.05144) and Promptagator (Dai et al. 2022,
arXiv:2209.11755). Generated queries pass the same filters as structural pairs.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from string import Template

from tasks.core.base.receipts import Snapshot
from tasks.core.base.sections.synthetic import GenerateSettings
from tasks.core.base.side_files import read_side_file
from tasks.core.synthesis.candidates import sampled_passages
from tasks.core.synthesis.endpoint import Endpoint

log = logging.getLogger("nightshift.synthesis")

PROMPT = Path(__file__).with_name("queries_prompt.txt")
LONGEST = 8_000  # characters of a passage in a prompt
_MARK = re.compile(r"^(\d+[.):]|[-*•])\s+")


def generate_queries(
    home: Path, snapshot: Snapshot, settings: GenerateSettings, max_passages: int, *, send: bool = True
) -> dict[str, list[str]]:
    """Return the queries that the language model of `[generate]` wrote for passages: text hash -> queries.

    Sends a prompt for each passage that has no stored answer, in the order of their text hashes, until the budget is
    spent. So a larger budget adds passages, and changes nothing else.

    Args:
        home: folder of stored answers.
        snapshot: the passages.
        settings: `[generate]`; without `url`, there are no queries.
        max_passages: maximum number of passages.
        send: false: use only stored answers, and log what the missing answers would cost.

    Raises:
        BadInput: the prompt file cannot be read.
        NightshiftError: the API refuses every request.
    """
    if not settings.url:
        return {}
    template = Template(read_side_file(settings.prompt, "prompt") if settings.prompt else PROMPT.read_text("utf-8"))
    rows = sorted(sampled_passages(snapshot, max_passages), key=lambda row: row["text_hash"])
    prompts = {
        row["text_hash"]: template.safe_substitute(
            title=row["title"] or "", text=row["text"][:LONGEST], count=settings.per_passage
        )
        for row in rows
    }
    endpoint = Endpoint(home, settings)
    if send:
        answers = endpoint.answer(list(prompts.values()))
    else:
        answers = endpoint.stored(list(prompts.values()))
        missing = [prompt for prompt in prompts.values() if prompt not in answers]
        log.info("%s", endpoint.estimate(missing))
    return {
        digest: queries
        for digest, prompt in prompts.items()
        if (queries := read_queries(answers.get(prompt, ""))[: settings.per_passage])
    }


def read_queries(answer: str) -> list[str]:
    """Return the queries of an answer, one per line, without numbers, bullets, quotes, and repetitions."""
    lines = (_MARK.sub("", line.strip()).strip(" \"'`") for line in answer.splitlines())
    return list(dict.fromkeys(line for line in lines if line))
