"""Names of releases, and the short forms that a person may type."""

from __future__ import annotations

from collections.abc import Collection

from tasks.core.base.errors import NightshiftError


class NoSuchRelease(NightshiftError):
    """No release has this name, or its collection is gone."""


def pick_name(name: str, names: Collection[str], missing: str = "unknown, or pruned. Kept are") -> str:
    """Return the one of `names` that is `name`, or else the only one that begins with it.

    `missing` is how the error lists the names that there are. Raises NoSuchRelease when none or several fit.
    """
    if name in names:
        return name
    fitting = [full for full in names if name and full.startswith(name)]
    if len(fitting) != 1:
        reason = f"the beginning of several: {', '.join(fitting)}. Kept are" if fitting else missing
        known = ", ".join(names) or "none yet; `nightshift run` makes the first"
        raise NoSuchRelease(f"release {name!r}: {reason}: {known}")
    return fitting[0]


def short_name(name: str, names: Collection[str]) -> str:
    """Return the number of a release, such as r0001, where it names no other of `names`; else its whole name."""
    number = name.partition("-")[0]
    return number if sum(other.startswith(number) for other in {*names, name}) == 1 else name
