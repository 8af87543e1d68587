"""The `trading` command.

Belongs here: options, progress, exit codes, and how results are printed. What is run is in the definitions.
"""

from __future__ import annotations

import os
import socket
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from trading_dagster import maintenance_cli, operator_cli
from trading_dagster.settings import Settings, SettingsError, load_settings

if TYPE_CHECKING:
    import dagster as dg
    import pandas as pd

    from trading_dagster.execution.day_summary import DaySummary

FAILED, WRONG_USE = 1, 2
"""Exit codes: a run failed; the command or a setting cannot be used."""

HOST_TAG, PROCESS_TAG = "trading/host", "trading/process"

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

INSTANCE_SETTINGS = """\
# Written once by `trading`; yours to change.
nux:
  enabled: false
telemetry:
  enabled: false
run_retries:
  enabled: false
concurrency:
  runs:
    max_concurrent_runs: 1  # an account passes its sessions in order
"""


@click.group()
@click.version_option(package_name="trading-dagster")
def main() -> None:
    """Daily trading pipeline: run sessions, read their results, and operate what trades."""


for command in (*operator_cli.COMMANDS, *maintenance_cli.COMMANDS):
    main.add_command(command)


@main.command()
@click.option("--session", help="One session, YYYY-MM-DD.")
@click.option("--from", "first", help="First session of a range.")
@click.option("--to", "last", help="Last session of a range.")
@click.option(
    "--accept-changed-columns", is_flag=True,
    help="Take answers of the source whose columns differ from those before, and compare with them from now on.",
)  # fmt: skip
def run(session: str | None, first: str | None, last: str | None, accept_changed_columns: bool) -> None:
    """Run the daily stages for one session or a range, training the months' models that are missing."""
    if (session is None) == (first is None or last is None) or (first is None) != (last is None):
        raise click.UsageError("give either --session D, or both --from A and --to B")
    with _user_errors():
        settings = load_settings()
        _prepare_home(settings)
        ok = _run(settings, session or str(first), session or str(last), accept_changed_columns)
    sys.exit(0 if ok else FAILED)


@main.command()
@click.option("--session", help="The session to read; the account's newest by default.")
def summary(session: str | None) -> None:
    """Print a session's result again."""
    with _user_errors():
        from trading_dagster.calendar import session_calendar
        from trading_dagster.resources.sql_ledger import SqlLedger

        settings = load_settings()
        ledger = SqlLedger(settings.resolved_ledger_url)
        newest = ledger.last_recorded_session(settings.strategy)
        if session is None and newest is None:
            raise click.UsageError("nothing has been run yet; start with: trading run --session D")
        at = newest if session is None else session_calendar(settings.calendar).session(session)
        assert at is not None
        _print_summary(_summary(settings, at))


@main.group()
def quarantine() -> None:
    """Bars that were not believed: list them, let one in."""


@quarantine.command("list")
@click.option("--all", "everything", is_flag=True, help="Released ones too.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def quarantine_list(everything: bool, as_json: bool) -> None:
    """Print the bars in quarantine, newest first, with the reason."""
    with _user_errors():
        from trading_dagster.resources.quarantine import listing
        from trading_dagster.resources.tables import Tables

        rows = listing(Tables(load_settings().resolved_tables_uri), everything=everything)
    if as_json:
        click.echo(rows.to_json(orient="records", date_format="iso", date_unit="s"))
        return
    console.print(f"{len(rows)} bars" + (" in quarantine" if not everything else ", released ones included"))
    table = Table(box=None, padding=(0, 1))
    for column in ("symbol", "session", "close", "state", "why"):
        table.add_column(column, justify="right" if column == "close" else "left", no_wrap=column != "why")
    for row in rows.itertuples():
        why = f"{row.reason}: {row.detail}" + (f"; released by {row.operator}: {row.note}" if row.operator else "")
        table.add_row(row.symbol, f"{row.session:%Y-%m-%d}", f"{row.close:,.4f}", row.state, why)
    console.print(table)


@quarantine.command("release")
@click.argument("symbol")
@click.argument("session")
@click.option("--operator", required=True, help="Who says so.")
@click.option("--reason", required=True, help="Why the bar is true.")
@click.option(
    "--since-close", is_flag=True,
    help="Let it count as known since its session's close: past sessions change when they are run again.",
)  # fmt: skip
def quarantine_release(symbol: str, session: str, operator: str, reason: str, since_close: bool) -> None:
    """Let the bar of SYMBOL at SESSION into `bars`."""
    with _user_errors():
        from trading_dagster.calendar import session_calendar
        from trading_dagster.resources.quarantine import release
        from trading_dagster.resources.tables import Tables

        settings = load_settings()
        tables, calendar = Tables(settings.resolved_tables_uri), session_calendar(settings.calendar)
        console.print(release(tables, calendar, symbol, session, operator, reason, since_close=since_close))


@main.command()
@click.option("--port", default=3000, show_default=True, help="Port on 127.0.0.1.")
def ui(port: int) -> None:
    """Serve the Dagster UI with its daemon, on this machine only."""
    with _user_errors():
        _prepare_home(load_settings())
    dagster = Path(sys.executable).with_name("dagster")
    # the superseding `dg dev` is a package of its own for a project layout that this one does not use
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")
    os.execv(  # noqa: S606  # the command is ours, and there is no shell
        dagster, [str(dagster), "dev", "--module-name", "trading_dagster.definitions", "--host", "127.0.0.1",
                  "--port", str(port)]
    )  # fmt: skip


@contextmanager
def _user_errors() -> Iterator[None]:
    """Print errors that the user can mend without a traceback."""
    from trading_dagster.calendar import SessionError
    from trading_dagster.execution.day_summary import SummaryError
    from trading_dagster.resources.ledger import LedgerUnavailableError
    from trading_dagster.resources.quarantine import QuarantineError
    from trading_dagster.resources.storage_errors import TablesUnavailableError

    try:
        yield
    except (LedgerUnavailableError, TablesUnavailableError) as error:
        errors.print(f"[red]error:[/red] {error}", markup=True)
        sys.exit(FAILED)
    except (SettingsError, SessionError, SummaryError, QuarantineError) as error:
        errors.print(f"[red]error:[/red] {error}", markup=True)
        sys.exit(WRONG_USE)


def dagster_home(settings: Settings) -> Path:
    """Dagster's home: the user's, or one beside the data; it need not be there yet."""
    return Path(os.environ.setdefault("DAGSTER_HOME", str(settings.data_dir.absolute() / "dagster")))


def _prepare_home(settings: Settings) -> None:
    """Give Dagster a home that lasts, unless the user has chosen one."""
    home = dagster_home(settings)
    home.mkdir(parents=True, exist_ok=True)
    config = home / "dagster.yaml"
    # a home elsewhere is the user's, and so is its configuration
    if home == settings.data_dir.absolute() / "dagster" and not config.exists():
        config.write_text(INSTANCE_SETTINGS, encoding="utf-8")


@contextmanager
def dagster_instance(settings: Settings) -> Iterator[dg.DagsterInstance]:
    """Open Dagster's storage, to read what it recorded of past runs."""
    import dagster as dg

    _prepare_home(settings)
    with dg.DagsterInstance.get() as instance:
        yield instance


# -- running --------------------------------------------------------------------------------------------------


@dataclass
class _Outcome:
    """What the events of a run said."""

    success: bool = True
    failures: list[str] = field(default_factory=list)
    checks: dict[tuple[str, str], str] = field(default_factory=dict)
    rows_changed: dict[str, int] = field(default_factory=dict)
    orders_submitted: int = 0

    def add(self, other: _Outcome) -> None:
        """Take in the outcome of a further run."""
        self.success &= other.success
        self.failures += other.failures
        self.checks |= other.checks
        for name, rows in other.rows_changed.items():
            self.rows_changed[name] = self.rows_changed.get(name, 0) + rows
        self.orders_submitted += other.orders_submitted


def _run(settings: Settings, first: str, last: str, accept_changed_columns: bool) -> bool:
    from trading_dagster.calendar import SessionError, month_key, session_calendar

    calendar = session_calendar(settings.calendar)
    now = datetime.now(UTC)
    sessions = calendar.between(calendar.session(first), calendar.closed(last, now))
    if not len(sessions):
        raise SessionError(f"the range from {first} to {last} is empty; --from must not be later than --to")
    began = time.perf_counter()
    span = last if len(sessions) == 1 else f"{first} to {last}, {len(sessions)} sessions"
    console.print(f"[bold]trading run[/bold]  {span}  source {settings.source}, broker {settings.broker}")

    import dagster as dg

    from trading_dagster.definitions import defs
    from trading_dagster.resources.schemas import TABLES
    from trading_dagster.resources.tables import Tables

    total = _Outcome()
    with dg.DagsterInstance.get() as instance:
        _close_dead_runs(instance)
        tables = Tables(settings.resolved_tables_uri)
        fitted = [set(tables.read(name, columns=["month"])["month"]) for name in TABLES if TABLES[name].monthly]
        there = {f"{month:%Y-%m-%d}" for month in set.intersection(*fitted)}
        months = [key for key in dict.fromkeys(map(month_key, sessions)) if key not in there]
        if months:
            before = calendar.previous(calendar.first_session_of_month(months[-1]))
            total.add(_execute(instance, defs, "fetch", [f"{before:%Y-%m-%d}"], accept_changed_columns))
            for group in _consecutive(months):
                if total.success:
                    total.add(_execute(instance, defs, "training", group))
        if total.success:
            total.add(_execute(instance, defs, "daily", [f"{s:%Y-%m-%d}" for s in sessions], accept_changed_columns))
    if not total.success:
        errors.print("\n[red bold]The run failed.[/red bold]")
        for failure in total.failures:
            errors.print(f"  {failure}", markup=False)
        errors.print("Correct the cause and give the same command again. Details: make ui, page Runs.")
        return False
    _print_summary(_summary(settings, sessions[-1]), total)
    console.print(f"[dim]{time.perf_counter() - began:.1f} s[/dim]")
    return True


def _consecutive(months: Sequence[str]) -> list[list[str]]:
    """Group month keys without gaps between them: a run's range must not touch models that are there."""
    groups: list[list[str]] = []
    for key in months:
        year, month = int(key[:4]), int(key[5:7])
        previous = f"{year if month > 1 else year - 1}-{month - 1 or 12:02d}-01"
        if groups and groups[-1][-1] == previous:
            groups[-1].append(key)
        else:
            groups.append([key])
    return groups


def _execute(
    instance: dg.DagsterInstance,
    defs: dg.Definitions,
    job_name: str,
    keys: Sequence[str],
    accept_changed_columns: bool = False,
) -> _Outcome:
    """Run a job over a range of partitions in this process, printing each stage as it ends."""
    tags = {HOST_TAG: socket.gethostname(), PROCESS_TAG: str(os.getpid())}
    if type(instance.run_launcher).__name__ == "DockerRunLauncher":
        from trading_dagster.resources.run_containers import CONTAINER_TAG

        # the daemon marks a run without a container as failed; a container's host name leads to it as its id does
        tags[CONTAINER_TAG] = socket.gethostname()
    if len(keys) > 1:
        tags |= {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
    decided = {"config": {"accept_changed_columns": True}}
    ops = dict.fromkeys(("bars", "corporate_actions"), decided) if accept_changed_columns else {}
    run_id = str(uuid.uuid4())
    outcome = _Outcome()
    with console.status("starting") as status:
        instance.add_event_listener(run_id, _Progress(outcome, status, len(keys), job_name))
        result = defs.resolve_job_def(job_name).execute_in_process(
            instance=instance,
            run_id=run_id,
            partition_key=keys[0] if len(keys) == 1 else None,
            tags=tags,
            raise_on_error=False,
            # the events are shown as progress; as log lines they would bury it
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, "ops": ops},
        )
    outcome.success = result.success
    return outcome


class _Progress:
    """Listener that prints a line when a stage ends, and collects what the summary needs."""

    def __init__(self, outcome: _Outcome, status: Any, partitions: int, job_name: str) -> None:
        self.outcome = outcome
        self.status = status
        self.unit = "month" if job_name == "training" else "session"
        self.partitions = partitions
        self.started: dict[str, float] = {}

    def __call__(self, entry: dg.EventLogEntry, *_: object) -> None:
        event = entry.dagster_event
        if event is None:
            # what a stage says of itself, such as how far a fetch has come
            self.status.update(entry.user_message)
            return
        kind, step = event.event_type_value, event.step_key or ""
        if kind == "STEP_START":
            self.started[step] = time.perf_counter()
            self.status.update(f"{step} ...")
        elif kind == "STEP_SUCCESS":
            plural = "s" if self.partitions > 1 else ""
            changed = self.outcome.rows_changed.get(step, 0)
            console.print(
                f"  [green]done[/green]    {step:18s} {self.partitions:4d} {self.unit}{plural} "
                f"{changed:7d} rows changed {time.perf_counter() - self.started[step]:6.1f} s"
            )
        elif kind == "STEP_FAILURE":
            console.print(f"  [red]failed[/red]  {step}")
            self.outcome.failures.append(f"{step}: {_cause(event).removeprefix(f'{step}: ')}")
        elif kind == "STEP_SKIPPED":
            console.print(f"  [yellow]skipped[/yellow] {step}")
        elif kind == "ASSET_CHECK_EVALUATION":
            check = event.asset_check_evaluation_data
            state = "passed" if check.passed else ("warned" if check.severity.value == "WARN" else "failed")
            self.outcome.checks[(check.asset_key.to_user_string(), check.check_name)] = state
            if state == "warned":
                console.print(f"  [yellow]warning[/yellow] {check.asset_key.to_user_string()}: {check.description}")
        elif kind == "ASSET_MATERIALIZATION":
            data = event.step_materialization_data.materialization
            self.outcome.rows_changed[data.asset_key.to_user_string()] = _count(data.metadata["rows_changed"])
            if "orders_submitted" in data.metadata:
                self.outcome.orders_submitted = _count(data.metadata["orders_submitted"])


def _count(value: dg.MetadataValue[Any]) -> int:
    """An integer out of an event's metadata."""
    assert isinstance(value.value, int)
    return value.value


def _cause(event: dg.DagsterEvent) -> str:
    """The message of a step's failure, from the innermost error, without Dagster's frame around it."""
    data = event.step_failure_data
    if data.user_failure_data is not None and data.user_failure_data.description:
        return str(data.user_failure_data.description)
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip() if error is not None else "no error was recorded"


def _close_dead_runs(instance: dg.DagsterInstance) -> None:
    """Mark runs of this command whose process is gone as failed: nothing else would ever end them."""
    import dagster as dg

    running = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]
    mine = dg.RunsFilter(statuses=running, tags={HOST_TAG: socket.gethostname()})
    for dagster_run in instance.get_runs(mine):
        process = int(dagster_run.tags[PROCESS_TAG])
        if not _is_alive(process):
            instance.report_run_failed(dagster_run, f"its process {process} is gone")
            console.print(f"  [yellow]closed[/yellow]  run {dagster_run.run_id[:8]}, whose process was killed")


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# -- printing -------------------------------------------------------------------------------------------------


def _summary(settings: Settings, session: pd.Timestamp) -> DaySummary:
    from trading_dagster.execution.day_summary import day_summary
    from trading_dagster.resources.sql_ledger import SqlLedger
    from trading_dagster.resources.tables import Tables

    return day_summary(settings, Tables(settings.resolved_tables_uri), SqlLedger(settings.resolved_ledger_url), session)


def _print_summary(day: DaySummary, outcome: _Outcome | None = None) -> None:
    console.print(f"\n[bold]Session {day.session}[/bold]")
    console.print(f"  market regime   {day.regime}; suits {day.suitability:.0%} of the full exposure")
    equity, first = day.equity.iloc[-1], day.equity.iloc[0]
    held = day.benchmark.iloc[-1]
    span = f"{len(day.equity)} session{'s' if len(day.equity) > 1 else ''} since {day.equity.index[0]:%Y-%m-%d}"
    console.print(
        f"  equity          {equity:,.2f} ({equity / first - 1:+.2%} over {span}; deepest drawdown "
        f"{day.max_drawdown:.2%}), cash {day.cash:,.2f}"
    )
    console.print(f"  buy and hold    {held:,.2f} ({held / first - 1:+.2%}), equal weights, same sessions and costs")

    console.print("\n[bold]Signals[/bold], what to do first, then what is held")
    signals = Table(box=None, padding=(0, 1))
    for column, right in (("", False), ("action", False), ("held", True), ("wanted", True), ("why", False)):
        signals.add_column(column, justify="right" if right else "left", no_wrap=column != "why")
    for row in day.signals.head(8).itertuples():
        signals.add_row(
            row.symbol, row.action, f"{row.current_weight:.1%}", f"{row.target_weight:.1%}", str(row.reason)
        )
    console.print(signals)
    counts = day.signals["action"].value_counts()
    console.print("  " + ", ".join(f"{counts.get(action, 0)} {action}" for action in ("BUY", "SELL", "HOLD")))

    _print_orders("Orders[/bold] decided at this close, for the next open", day.orders, filled=False)
    _print_orders("Fills[/bold] of this session", day.fills, filled=True)
    console.print()

    console.print(
        f"  account so far  {day.order_count} orders, {day.fill_count} filled, {day.commission:,.2f} commission"
    )
    passed, verdicts = day.verdicts
    console.print(f"  data policy     {passed} of {verdicts} stage verdicts of this session passed")
    if outcome is not None:
        states = list(outcome.checks.values())
        console.print(f"  checks          {states.count('passed')} passed, {states.count('warned')} warned, 0 failed")
        changed = sum(outcome.rows_changed.values())
        console.print(
            f"  this run        {outcome.orders_submitted} new orders sent, {changed} table rows changed"
            + ("; everything was there already" if changed == 0 and outcome.orders_submitted == 0 else "")
        )
    console.print("\nNext: [bold]make ui[/bold] to see the graph, the pictures and every run; "
                  f"[bold].venv/bin/trading summary --session {day.session}[/bold] to read this again.")  # fmt: skip


def _print_orders(title: str, orders: pd.DataFrame, *, filled: bool) -> None:
    console.print(f"\n[bold]{title}" + (": none" if orders.empty else ""))
    if orders.empty:
        return
    table = Table(box=None, padding=(0, 1))
    for column in ("", "side", "shares", "price", "amount", "state"):
        table.add_column(column, justify="right" if column in ("shares", "price", "amount") else "left")
    for row in orders.itertuples():
        quantity = row.filled_quantity if filled else row.quantity
        price = row.average_price if filled else row.reference_price
        table.add_row(
            row.symbol, row.side, f"{quantity:,.4f}", f"{price:,.2f}", f"{quantity * price:,.2f}",
            row.state + (f" ({row.note})" if row.note else ""),
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()
