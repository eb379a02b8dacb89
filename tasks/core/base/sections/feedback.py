"""Settings of feedback: `[feedback]` in the settings file."""

from __future__ import annotations

from pydantic import Field

from tasks.core.base.section import Section


class FeedbackSettings(Section):
    """Votes on the search page, and their use in nights."""

    collect: bool = Field(
        False, description="accept votes on the search page and at `POST /feedback`, into home/feedback/votes.jsonl"
    )
    votes: int = Field(
        2, ge=1, description="visitors who must agree until their votes decide about a query and a passage"
    )
    per_minute: int = Field(30, ge=1, description="votes of a visitor per minute and service process; more get 429")
    megabytes: int = Field(64, ge=1, description="largest size of the file with votes; further votes get 507")
