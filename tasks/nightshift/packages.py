"""Imports Nightshift's own `tasks` and `data_contracts`, also where the user's folder has modules of these names."""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

OWN = ("tasks", "data_contracts")
FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent if (FOLDER.parent / "tasks" / "core").is_dir() else FOLDER.parents[1]  # installed, or a checkout


def load_own_packages() -> None:
    """Import the packages from where Nightshift is installed, before the import system looks in the user's folder.

    Raises:
        ImportError: a module of the same name was imported before.
    """
    for name in OWN:
        if (loaded := sys.modules.get(name)) is not None:
            if not any(Path(folder).resolve() == ROOT / name for folder in getattr(loaded, "__path__", ())):
                raise ImportError(
                    f"{getattr(loaded, '__file__', name)} was imported as {name!r} before nightshift, which has a "
                    "package of that name: import nightshift first, or rename your module"
                )
            continue
        spec = PathFinder.find_spec(name, [str(ROOT)])
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
