"""Why an order was sent: the chain from the order back to the bars, the model, the code and the checks.

Belongs here: collecting what the ledger, the tables and Dagster's event log say of one order, and writing it down for
a person or a machine. Does not belong here: judging or computing any of it anew, and the command that prints it.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any

import pandas as pd

from trading_dagster.code_version import code_version
from trading_dagster.execution.orders import Fill, Order, OrderState
from trading_dagster.resources.ledger import Ledger, Purpose
from trading_dagster.resources.schemas import TABLES
from trading_dagster.resources.tables import VERSION, Tables
from trading_dagster.settings import MARKET_SYMBOL, Settings

if TYPE_CHECKING:
    import dagster as dg

CHAIN = {
    "signals": "Signal: what was to be done",
    "allocation": "Allocation: the weight that was wanted",
    "forecast": "Forecast: what was expected",
    "condition": "Condition: what the next three add up to, in a word",
    "volatility": "Volatility: the risk that was seen",
    "regime": "Regime: the state of the symbol and of the market",
    "phasing": "Phase: where the price stood in its cycles",
    "bars": "Bars: the last prices",
    "corporate_actions": "Corporate actions of the last sessions",
    "forecast_model": "Model: what the forecast was made with",
}
"""Tables from the decision back to what it rests on, with the title of each."""

MODEL, DATA_VERSION = "forecast_model", "dagster/data_version"
BARS_SHOWN, ACTION_SESSIONS, MATERIALISATIONS_READ, WIDTH, CELL = 3, 30, 50, 116, 30


class ExplainError(ValueError):
    """An order that is not known."""


@dataclass(frozen=True)
class Materialisation:
    """One time that a run made a partition, with the table's Delta version after it and those that it read.

    `rows_changed` is over all partitions of that run; what the run does not say is None or empty.
    """

    run_id: str
    at: datetime
    delta_version: int | None
    rows_changed: int | None
    data_version: str
    input_versions: dict[str, int]


@dataclass(frozen=True)
class Check:
    """One evaluation of an asset check."""

    asset: str
    name: str
    passed: bool
    severity: str
    description: str
    run_id: str


@dataclass(frozen=True)
class Link:
    """One table's part in the decision.

    Attributes
    ----------
    rows : tuple of dict
        Of the symbol, today's; of a table with revisions those that the decision may have known.
    data_policy : bool or None
        Verdict, if there is one.
    table_version, read_at : int and dict of str to int
        Delta version now, and those at which the stages after it read the table.
    materialisation, newest : Materialisation or None
        The one that the decision rests on, and the newest one.
    changed_since : bool or None
        Whether other rows may have been there at the decision, if that is known.
    """

    name: str
    rows: tuple[dict[str, Any], ...]
    data_policy: bool | None
    table_version: int | None
    read_at: dict[str, int]
    materialisation: Materialisation | None
    newest: Materialisation | None
    changed_since: bool | None


@dataclass(frozen=True)
class Explanation:
    """Everything that is stored about why an order was decided: `links` in the order of `CHAIN`.

    `sent` is whether it went, or may have gone, to the broker; `steps` are the states that it came to; `refusals` are
    those of the symbol, and of the whole session with an empty one. Run, purpose (None where a later plan hides it),
    code version and time are the plan's; `run_status` is Dagster's job and outcome, empty where it has no such run;
    `made` is the table `orders` by that run. `code_version_now` is of the code that explains.
    """

    order: Order
    sent: bool
    notes: tuple[str, ...]
    steps: tuple[dict[str, Any], ...]
    fills: tuple[Fill, ...]
    refusals: tuple[dict[str, Any], ...]
    links: tuple[Link, ...]
    code_version: str
    code_version_now: str
    run_id: str
    run_status: str
    decided_at: datetime
    purpose: Purpose | None
    made: Materialisation | None
    checks: tuple[Check, ...]


def explain_order(
    settings: Settings, tables: Tables, ledger: Ledger, instance: dg.DagsterInstance | None, client_order_id: str
) -> Explanation:
    """Collect why an order was decided; without an instance, the runs of the stages and the checks are left out.

    Raises
    ------
    ExplainError
        If the ledger has no such order.
    """
    # a module that loads dagster, which takes half a second: only once somebody asks
    from trading_dagster.calendar import month_key, session_calendar

    order = ledger.order(client_order_id)
    if order is None:
        raise ExplainError(_unknown(ledger, settings.strategy, client_order_id))
    run_id, version, decided_at = ledger.plan_of(client_order_id)
    calendar = session_calendar(settings.calendar)
    session = calendar.session(order.session)
    known_until = min(calendar.next_open_times(pd.DatetimeIndex([session]))[0], pd.Timestamp(decided_at))
    firsts = {name: calendar.back(session, ACTION_SESSIONS - 1) for name in CHAIN if TABLES[name].revisions}
    lasts = {**dict.fromkeys(CHAIN, session), MODEL: pd.Timestamp(month_key(session))}
    run, made, moment = None, None, decided_at.timestamp()
    used: dict[str, Materialisation] = {}
    later: dict[str, tuple[Materialisation, ...]] = {}
    if instance is not None:
        run = instance.get_run_by_id(run_id)
        own = _made(instance, "orders", session, after_timestamp=moment)
        made = next((m for m in own if m.run_id == run_id), None)
        for name, last in lasts.items():
            later[name] = _made(instance, name, last, after_timestamp=moment)
            earlier = _made(instance, name, last, before_timestamp=moment)
            if earlier:
                used[name] = next((m for m in earlier if m.run_id == run_id), earlier[0])
    readers = used | ({"orders": made} if made else {})
    verdicts, links = ledger.verdicts(order.session, list(CHAIN)), []
    for name, last in lasts.items():
        rows, table_version, changed = _rows(tables, name, order.symbol, (firsts.get(name, last), last), known_until)
        if name == MODEL:  # its verdict is of the session that it was fitted to
            verdicts = ledger.verdicts(date.fromisoformat(rows[0]["fitted_to"]), [MODEL]) if rows else {}
        if not TABLES[name].revisions and instance is not None:
            changed = any(m.rows_changed != 0 for m in later[name])
        read_at = {by: m.input_versions[name] for by, m in readers.items() if name in m.input_versions}
        newest = next(iter(later.get(name, [])), used.get(name))
        links.append(Link(name, rows, verdicts.get(name), table_version, read_at, used.get(name), newest, changed))
    plans = {kind: ledger.plan(order.strategy, order.session, kind) for kind in Purpose}
    ids = {kind: [each.client_order_id for each in plan.orders] for kind, plan in plans.items() if plan}
    purpose = next((kind for kind, names in ids.items() if client_order_id in names), None)
    events = ledger.order_events(client_order_id)
    refused = ledger.refusals(order.strategy, order.session).to_dict("records")
    runs = {"orders": run_id} | {name: m.run_id for name, m in used.items()}
    return Explanation(
        order=order,
        sent=bool(order.broker_order_id) or any(state is OrderState.SUBMITTED for _, state, *_ in events),
        notes=tuple(_notes(settings, order, purpose, bool(links[0].rows), instance is not None)),
        steps=tuple(dict(zip(("at", "state", "filled_quantity", "note"), event, strict=True)) for event in events),
        fills=tuple(ledger.fills(order.strategy, client_order_id)),
        refusals=tuple(_plain([row for row in refused if row["symbol"] in ("", order.symbol)])),
        links=tuple(links),
        code_version=version,
        code_version_now=code_version(),
        run_id=run_id,
        run_status=f"{run.job_name}, {run.status.value}" if run else "",
        decided_at=decided_at,
        purpose=purpose,
        made=made,
        checks=() if instance is None else tuple(_checks(instance, runs, order.session.isoformat())),
    )


def as_dict(explanation: Explanation) -> dict[str, Any]:
    """Return everything as values that JSON has: decimals as text, dates in ISO form, missing numbers as None."""
    return dict(_plain(explanation))


def render(explanation: Explanation) -> str:
    """Write the chain down for a person to read from top to bottom, one section a link."""
    status = explanation.run_status or "not on record at Dagster"
    purpose = explanation.purpose or "a plan that a later one hides"
    then, now = explanation.code_version, explanation.code_version_now
    sections = [
        (f"Order {explanation.order.client_order_id}", _order_lines(explanation)),
        *((CHAIN[link.name], _link_lines(link, explanation)) for link in explanation.links),
        ("Code version", [f"{then} decided it, {'as is here now' if then == now else f'and {now} is here now'}"]),
        ("Run", [f"{explanation.run_id}: {status}", f"decided at {_cell(explanation.decided_at)}, for {purpose}"]),
        ("Checks of these runs", list(_check_lines(explanation)) or ["none on record"]),
    ]
    lines = [f"Note: {note}" for note in explanation.notes]
    for number, (title, found) in enumerate(sections, 1):
        lines += ["", f"{number}. {title}", *(f"   {line}" for line in found)]
    wrapped = ["\n".join(textwrap.wrap(line, WIDTH, subsequent_indent=" " * 8)) for line in lines]
    return "\n".join(wrapped).lstrip() + "\n"


def _order_lines(explanation: Explanation) -> Iterator[str]:
    order = explanation.order
    limit = "at market" if order.limit_price is None else f"at {order.limit_price} a share at most"
    yield f"{order.side} {order.quantity} shares of {order.symbol} {limit}, for the session after {order.session}"
    yield f"why: {order.reason}"
    yield f"sized with the close of {order.reference_price} a share, as traded"
    name = order.broker_order_id and f", which calls it {order.broker_order_id}"
    yield f"sent to the broker{name}" if explanation.sent else "never sent to the broker"
    note = order.note and f": {order.note}"
    yield f"state: {order.state}, {order.filled_quantity} of {order.quantity} shares filled{note}"
    for step in explanation.steps:
        note = step["note"] and f": {step['note']}"
        yield f"{_cell(step['at'])} {step['state']}, {step['filled_quantity']} shares filled{note}"
    for fill in explanation.fills:
        yield f"fill in {fill.session}: {fill.quantity} shares at {fill.price} a share, commission {fill.commission}"
    for held in explanation.refusals:
        yield f"gate {held['gate']} held back {held['symbol'] or 'the session'}: {held['detail']}; run {held['run_id']}"
    yield from [] if explanation.refusals else ["held back by gates: nothing of this symbol"]


def _link_lines(link: Link, explanation: Explanation) -> Iterator[str]:
    made, newest = link.materialisation, link.newest
    yield f"data policy: {'no verdict' if link.data_policy is None else 'passed' if link.data_policy else 'FAILED'}"
    if made is not None:
        whose = "the order's own" if made.run_id == explanation.run_id else "another than the order's"
        yield f"made by run {made.run_id} ({whose}) at {_cell(made.at)}"
        read = ", ".join(f"{name} {version}" for name, version in made.input_versions.items())
        yield f"wrote Delta version {made.delta_version}" + (read and f", from the Delta versions {read}")
    for version in dict.fromkeys(link.read_at.values()):
        yield f"Delta version {version} was read by {', '.join(n for n, v in link.read_at.items() if v == version)}"
    yield f"the table is at Delta version {link.table_version} now"
    if link.changed_since and TABLES[link.name].revisions:
        yield "CHANGED SINCE: revisions of the last sessions came later; the rows below are those that were known"
    elif link.changed_since and newest is not None:
        yield f"MAY HAVE CHANGED SINCE: below is what is there today, by run {newest.run_id} at {_cell(newest.at)}"
    elif newest is not None and newest != made:
        yield f"made again by run {newest.run_id} at {_cell(newest.at)}: what is below did not change"
    yield from _table(link) if link.rows else ["no row: the table has none for this order"]


def _table(link: Link) -> Iterator[str]:
    """One line a column, with its values and what it means."""
    lines: list[tuple[str, ...]] = []
    for column in TABLES[link.name].columns:
        values = [row.get(column.name) for row in link.rows]
        same = values.count(values[0]) == len(values)
        if column.name in ("artifact", "parameters") or (same and column.name in ("session", "symbol")):
            continue
        if isinstance(values[0], dict):
            lines += [(name, _cell(value), column.description) for name, value in values[0].items()]
        elif values == values[:1] and len(_cell(values[0])) > CELL:
            yield f"{column.name}: {values[0]}"
        else:
            lines.append((column.name, *map(_cell, values), column.description))
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for name, *cells, described in lines:
        shown = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=False))
        yield f"{name.ljust(widths[0])}  {shown}  {described}"


def _check_lines(explanation: Explanation) -> Iterator[str]:
    for check in explanation.checks:
        run = "" if check.run_id == explanation.run_id else f" in run {check.run_id}"
        judged = "passed" if check.passed else f"FAILED, {check.severity}"
        yield f"{check.asset} {check.name}: {judged}{run}" + (check.description and f": {check.description}")


def _cell(value: Any) -> str:
    """Write a value with the digits that a person reads."""
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() else f"{value:.6g}"
    text = value.isoformat(timespec="seconds") if isinstance(value, datetime) else str(value)
    return "-" if value is None else text.replace("+00:00", "Z")


def _unknown(ledger: Ledger, strategy: str, wanted: str) -> str:
    """What to say of an identity that the ledger does not have."""
    newest = ledger.last_recorded_session(strategy)
    if newest is None:
        return f"no order is named {wanted!r}: the strategy {strategy!r} has not traded yet; run a session: trading run"
    named = pd.to_datetime("".join(re.findall(r"-(\d{8})-", wanted)[:1]), format="%Y%m%d", errors="coerce")
    days = {at.date() + timedelta(days=away) for at in (newest, named) if at is not pd.NaT for away in range(-30, 8)}
    near = difflib.get_close_matches(wanted, list(ledger.order_table(strategy, days)["client_order_id"]))
    return (
        f"no order is named {wanted!r}{'; near are ' if near else ''}{', '.join(near)}. An identity is "
        "strategy-YYYYMMDD-symbol-revision, with the session at whose close the order was decided; copy it from "
        f"client_order_id in the table `orders`. Looked for near ones in the strategy {strategy!r} (TRADING_STRATEGY)"
    )


def _notes(settings: Settings, order: Order, purpose: Purpose | None, has_signal: bool, asked: bool) -> Iterator[str]:
    """What the reader must know before the rest."""
    if purpose is Purpose.FLATTEN:
        yield "An operator's flattening decided it, not a signal; what the stages said then is shown beside."
    elif not has_signal:
        yield f"No signal of {order.symbol} is stored for {order.session}: the order's own reason is all there is."
    if purpose is Purpose.DRY_RUN:
        yield "A dry run planned it: nothing was sent."
    if order.strategy != settings.strategy:
        yield f"The order is of the strategy {order.strategy}, and the tables may be those of {settings.strategy}."
    if not asked:
        yield "No Dagster instance was asked: runs of the stages, versions that they read, and checks are left out."


def _rows(
    tables: Tables, name: str, symbol: str, span: tuple[date, date], known_until: pd.Timestamp
) -> tuple[tuple[dict[str, Any], ...], int | None, bool | None]:
    """Rows of the symbol, the table's Delta version, and whether they were revised later, where revisions are kept."""
    schema = TABLES[name]
    columns = [column.name for column in schema.columns if column.name != "artifact"]
    frame = tables.read(name, first=span[0], as_of=span[1], columns=columns, every_revision=schema.revisions)
    version, revised = frame.attrs[VERSION], None
    if "symbol" in columns:
        frame = frame[frame["symbol"].isin([symbol, MARKET_SYMBOL])]
    if schema.revisions:
        known = frame["known_at"] <= known_until
        frame, revised = frame[known].drop_duplicates(list(schema.key), keep="last"), not known.all()
    frame = frame[-BARS_SHOWN:] if name == "bars" else frame
    rows = _plain(frame.to_dict("records"))
    for row in rows if name == MODEL else []:
        row |= {column: json.loads(row[column]) for column in ("metrics", "parameters")}
        row["parameters"].pop("residual_quantiles", None)  # too many to read
    return tuple(rows), version, revised


def _made(instance: dg.DagsterInstance, name: str, at: date, **bounds: Any) -> tuple[Materialisation, ...]:
    """Materialisations of a partition within bounds of `AssetRecordsFilter`, newest first."""
    import dagster as dg

    wanted = dg.AssetRecordsFilter(dg.AssetKey(name), asset_partitions=[f"{at:%Y-%m-%d}"], **bounds)
    found = []
    for record in instance.fetch_materializations(wanted, limit=MATERIALISATIONS_READ).records:
        event = record.asset_materialization
        assert event is not None  # nothing else was asked for
        told: dict[str, Any] = {name: value.value for name, value in event.metadata.items()}
        versions = told.get("delta_version"), told.get("rows_changed"), (event.tags or {}).get(DATA_VERSION, "")
        moment = datetime.fromtimestamp(record.timestamp, UTC)
        found.append(Materialisation(record.run_id, moment, *versions, told.get("input_versions") or {}))
    return tuple(found)


def _checks(instance: dg.DagsterInstance, runs: Mapping[str, str], partition: str) -> Iterator[Check]:
    """Evaluations of each asset's checks in the run that made it; those of a run over a range name no partition."""
    import dagster as dg

    kind = dg.DagsterEventType.ASSET_CHECK_EVALUATION
    logs = {run: instance.all_logs(run, of_type=kind) for run in set(runs.values())}
    for asset, run in runs.items():
        wanted = (None, f"{partition[:7]}-01" if asset == MODEL else partition)
        for entry in logs[run]:
            told = entry.get_dagster_event().asset_check_evaluation_data
            if told.asset_key.to_user_string() == asset and told.partition in wanted:
                yield Check(asset, told.check_name, told.passed, told.severity.value, told.description or "", run)


def _plain(value: Any) -> Any:
    """Turn a value into one that JSON has."""
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is pd.NaT or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, Enum | Decimal):
        return value.value if isinstance(value, Enum) else f"{value:f}"
    if isinstance(value, pd.Timestamp) and value.tz is None:
        return value.date().isoformat()  # dates of tables come as timestamps
    return value.isoformat() if isinstance(value, date) else value
