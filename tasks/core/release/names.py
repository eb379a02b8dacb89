"""Names of releases, and the short forms that users may type."""

from __future__ import annotations

from collections.abc import Collection

from tasks.core.base.errors import NightshiftError

CARD = "README.md"  # the model card in the folder of a release


class NoSuchRelease(NightshiftError):
    """No release has this name, or its collection was removed."""


def pick_name(name: str, names: Collection[str], missing: str = "unknown or pruned. Available") -> str:
    """Return the full name for a name or a unique prefix of one.

    Args:
        name: what the user typed.
        names: the valid names.
        missing: how the error introduces the list of valid names.

    Raises NoSuchRelease when no name or several names match.
    """
    if name in names:
        return name
    matches = [full for full in names if name and full.startswith(name)]
    if len(matches) != 1:
        reason = f"matches several: {', '.join(matches)}. Available" if matches else missing
        known = ", ".join(names) or "none yet; `nightshift run` makes the first one"
        raise NoSuchRelease(f"release {name!r}: {reason}: {known}")
    return matches[0]


def short_name(name: str, names: Collection[str]) -> str:
    """Return the number of a release, such as r0001, if no other name has that number; otherwise its full name."""
    number = name.partition("-")[0]
    return number if sum(other.startswith(number) for other in {*names, name}) == 1 else name
