"""The command that forgets passages and queries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.options import AsJson, SettingsFile, echo, fail, load, print_json, readable_errors

if TYPE_CHECKING:
    from tasks.core.forget.plan import ForgetReceipt, Plan

forget_command = typer.Typer()

Ids = list[str]
IDS = '{"passage_id": …} or {"query_id": …}'


@forget_command.command(epilog="Example: nightshift forget --passage p17 --query q4 --dry-run")
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
    counts = ", ".join(f"{count} {shelf}" for shelf, count in plan.artifact_counts().items())
    echo(f"forgotten: {len(plan.passages):,} passages and {len(plan.queries):,} queries, {plan.texts:,} texts")
    if plan.unknown:
        echo(f"in no snapshot: {plan.unknown:,} ids, kept out of later nights")
    echo(f"release {'replaced' if done else 'to replace, with its own vectors'}: {', '.join(plan.rebuild) or 'none'}")
    echo(f"other releases {removed}: {', '.join(plan.drop) or 'none'}")
    echo(f"artifacts {removed}: {counts or 'none'}; in the object store: {len(plan.stored):,}")
    echo(f"files {'cleaned' if done else 'to clean'}: {', '.join(plan.files) or 'none'}")
    encoders, releases = (", ".join(names) or "none" for names in (plan.encoders, plan.learned))
    echo(f"cannot be unlearned: encoders {encoders}; releases {releases}")
    if plan.outside:
        echo(f"not changed: {'; '.join(plan.outside)}")
