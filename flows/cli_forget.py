"""The command that forgets passages and queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.options import AsJson, Panel, SettingsFile, echo, fail, load, print_json, readable_errors

if TYPE_CHECKING:
    from tasks.core.forget.plan import ForgetReceipt, Plan

forget_command = typer.Typer()

Ids = list[str]
NAMES = {"arms": "scores of both retrievers", "hits": "hits carried over nights"}  # shelf -> what it has
IDS = '{"passage_id": …} or {"query_id": …}'


@forget_command.command(
    rich_help_panel=Panel.DATA, epilog="Example: nightshift forget --passage p17 --query q4 --dry-run"
)
@readable_errors
def forget(
    passage: Annotated[Ids | None, typer.Option("--passage", metavar="ID", help="A passage; may be repeated.")] = None,
    query: Annotated[Ids | None, typer.Option("--query", metavar="ID", help="A query; may be repeated.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help=f"JSON lines with {IDS}.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be rebuilt and removed, and change nothing.")
    ] = False,
    as_json: AsJson = False,
    settings: SettingsFile = None,
) -> None:
    """Remove passages and queries from search, later nights, and all files of the home and its object store.

    Without ids, finish a run that was interrupted. Prints a receipt with digests and counts.
    """
    import flows.environment  # noqa: F401  (before Prefect: it sets what Prefect reads at import)
    from tasks.core.forget.forget import forget as forget_rows
    from tasks.core.forget.forget import plan_forget
    from tasks.core.forget.plan import read_pending
    from tasks.core.forget.request import read_ids

    loaded = load(settings)
    passages, queries = set(passage or ()), set(query or ())
    if file is not None:
        more = read_ids(file)
        passages, queries = passages | more.passages, queries | more.queries
    if not passages and not queries and read_pending(loaded.home) is None:
        fail("nothing to forget. Give --passage, --query, or --file; no earlier run is unfinished", 2)
    databases = _databases()
    if dry_run:
        plan = plan_forget(loaded, passages, queries, databases)
        print_json(plan.model_dump(mode="json")) if as_json else _print_plan(plan, done=False)
        return
    receipt = forget_rows(loaded, passages, queries, databases=databases)
    print_json(receipt.model_dump(mode="json")) if as_json else _print_receipt(receipt)


def _databases() -> list[Path]:
    """Return the SQLite database of the Prefect profile, which shows texts in its artifacts and logs."""
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL

    address = str(PREFECT_API_DATABASE_CONNECTION_URL.value() or "")
    return [Path(address.partition(":///")[2])] if address.startswith("sqlite") else []


def _print_receipt(receipt: ForgetReceipt) -> None:
    _print_plan(receipt.plan, done=True)
    echo(
        f"release {receipt.serving} serves, {receipt.embedded:,} passages embedded" if receipt.serving else "no release"
    )


def _print_plan(plan: Plan, *, done: bool) -> None:
    """Print counts and names, one line for each kind of place."""
    removed = "removed" if done else "to remove"
    counts = ", ".join(f"{count} {NAMES.get(shelf, shelf)}" for shelf, count in plan.artifact_counts().items())
    ids = f"{_count(plan.passages, 'passage')} and {_count(plan.queries, 'query', 'queries')}"
    echo(f"{'forgotten' if done else 'to forget'}: {ids}; number of their texts: {plan.texts:,}")
    if plan.unknown:
        echo(f"ids in no snapshot: {plan.unknown:,}; later nights leave these rows out")
    if plan.pinned and not done:
        commands = ", ".join(f"nightshift releases unpin {name}" for name in plan.pinned)
        echo(f"pinned, so it cannot finish: {', '.join(plan.pinned)}. First: {commands}")
    echo(f"release {'replaced' if done else 'to replace, with its own vectors'}: {', '.join(plan.rebuild) or 'none'}")
    echo(f"other releases {removed}: {', '.join(plan.drop) or 'none'}")
    echo(f"artifacts {removed}: {counts or 'none'}; in the object store: {len(plan.stored):,}")
    echo(f"files {'cleaned' if done else 'to clean'}: {', '.join(plan.files) or 'none'}")
    if plan.encoders:
        echo(f"cannot be unlearned: encoders {', '.join(plan.encoders)}; releases {', '.join(plan.learned) or 'none'}")
    if plan.outside:
        echo(f"not changed: {'; '.join(plan.outside)}")


def _count(items: Sequence[str], noun: str, plural: str = "") -> str:
    return f"{len(items):,} {noun if len(items) == 1 else plural or f'{noun}s'}"
