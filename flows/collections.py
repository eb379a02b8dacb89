"""Collections side by side: several settings files that share one Prefect server, each with its own home."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from tasks.core.base.errors import BadUsage
from tasks.core.base.settings_file import load_settings

if TYPE_CHECKING:
    from tasks.core.base.settings import Settings

TAG_PREFIX = "collection:"  # of the tag of a collection's deployments and runs
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,49}")


class Collection(BaseModel):
    """One collection under `nightshift up`. A collection that runs alone has no name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    settings_file: Path | None = None
    home: Path

    @property
    def tag(self) -> str:
        """Tag of the collection's deployments and runs. Empty for a collection that runs alone."""
        return tag_of(self.name)


def tag_of(name: str) -> str:
    """Return the tag of the collection `name`. Empty for an empty name."""
    return f"{TAG_PREFIX}{name}" if name else ""


def name_of(settings_file: Path | None) -> str:
    """Return the collection's name: that of the settings file, or of NIGHTSHIFT_SETTINGS. Empty without a file."""
    return Path(settings_file or os.environ.get("NIGHTSHIFT_SETTINGS", "")).stem


def collection_of(tags: Iterable[str]) -> str:
    """Return the collection that the tags of a deployment or run name. Empty if there is none."""
    return next((tag.removeprefix(TAG_PREFIX) for tag in tags if tag.startswith(TAG_PREFIX)), "")


def read_collections(files: Sequence[Path]) -> list[Collection]:
    """Load several settings files and name each collection after its file, without `.toml`.

    Raises:
        BadUsage: a file is invalid, or two collections share a name, a home, or an alias on the same Milvus server.
    """
    collections: list[Collection] = []
    taken: dict[tuple[str, str], Path] = {}
    for file in files:
        if not NAME.fullmatch(file.stem):
            raise BadUsage(f"settings file {file}: its name names the collection. Use letters, digits, - and _ only.")
        settings = load_settings(file)
        for place in _places(file, settings):
            if place in taken:
                raise BadUsage(
                    f"{taken[place]} and {file}: both have {place[0]} {place[1]}. Collections side by side need "
                    "different file names, homes, and Milvus aliases. NIGHTSHIFT_… variables apply to all of them."
                )
            taken[place] = file
        collections.append(
            Collection(name=file.stem, settings_file=file.expanduser().absolute(), home=settings.home.absolute())
        )
    return collections


def _places(file: Path, settings: Settings) -> list[tuple[str, str]]:
    """List what only one collection may use, as kind and value."""
    places = [("the name", file.stem), ("home", str(settings.home.resolve()))]
    if settings.milvus.uri:
        places.append(("the Milvus alias", f"{settings.milvus.alias} at {settings.milvus.uri}"))
    return places
