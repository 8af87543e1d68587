"""Quality of market data: one table of rules, from which the Great Expectations suites and the asset checks follow.

Belongs here: what a bar or an answer must be, by itself. Does not belong here: judging it by its neighbours, which
is `quant.bar_quality`'s, and what happens to what is refused, which is `resources.ingestion`'s.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import dagster as dg
import pandas as pd

from trading_dagster.policy import EARLIEST_DATE
from trading_dagster.resources.market_data import ACTION_COLUMNS, BAR_COLUMNS

SHOWN_ROWS = 20
"""Failing rows in a check's metadata."""

ALL_SYMBOLS = "all"
"""Stands for the symbol where a table as a whole breaks a rule."""

Frame = Literal["rows", "symbols"]


@dataclass(frozen=True)
class Rule:
    """One expectation, which is one asset check.

    Attributes
    ----------
    name : str
        Of the check.
    expectation : str
        Class in ``great_expectations.expectations``.
    arguments : dict
        Of that class. A text that begins with ``$`` is filled in at the run: ``$sessions``.
    meaning : str
        What a failing row is, for people: completes "... have".
    frame : {'rows', 'symbols'}
        Judged on the new rows, or on one row a symbol that says how its answer was.
    shown : tuple of str
        Columns of a failing row that the message quotes; missing ones are left out.
    """

    name: str
    expectation: str
    arguments: Mapping[str, Any]
    meaning: str
    frame: Frame = "rows"
    shown: tuple[str, ...] = ("open", "high", "low", "close", "volume", "kind", "value", "columns")


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _positive(column: str) -> Rule:
    return Rule(
        f"{column}_positive_and_finite",
        "ExpectColumnValuesToBeBetween",
        {"column": column, "min_value": 0.0, "strict_min": True, "max_value": sys.float_info.max},
        f"{_article(column)} {column} that is not above zero or not finite",
    )


def _at_least(upper: str, lower: str) -> Rule:
    return Rule(
        f"{lower}_not_above_{upper}",
        "ExpectColumnPairValuesAToBeGreaterThanB",
        {"column_A": upper, "column_B": lower, "or_equal": True, "ignore_row_if": "either_value_is_missing"},
        f"{_article(lower)} {lower} above the {upper}",
    )


def _symbol_is(name: str, quoted: str, meaning: str) -> Rule:
    arguments = {"column": name, "value_set": [True]}
    return Rule(name, "ExpectColumnValuesToBeInSet", arguments, meaning, "symbols", (quoted,))


_ANSWERED = _symbol_is("answered", "failure", "no answer from the source")
_COLUMNS = _symbol_is("columns_unchanged", "difference", "other columns in the answer than before")

RULES: dict[str, tuple[Rule, ...]] = {
    "bars": (
        _ANSWERED,
        _COLUMNS,
        Rule(
            "schema",
            "ExpectTableColumnsToMatchSet",
            {"column_set": BAR_COLUMNS, "exact_match": True},
            "columns that are not those of a bar",
        ),
        Rule("close_present", "ExpectColumnValuesToNotBeNull", {"column": "close"}, "no close"),
        *(_positive(column) for column in ("open", "high", "low", "close")),
        Rule(
            "volume_finite_and_not_negative",
            "ExpectColumnValuesToBeBetween",
            {"column": "volume", "min_value": 0.0, "max_value": sys.float_info.max},
            "a volume that is negative or not finite",
        ),
        _at_least("high", "low"),
        _at_least("open", "low"),
        _at_least("close", "low"),
        _at_least("high", "open"),
        _at_least("high", "close"),
        Rule(
            "not_before_2000",
            "ExpectColumnValuesToBeBetween",
            {"column": "session", "min_value": pd.Timestamp(EARLIEST_DATE)},
            f"a date before {EARLIEST_DATE}, which the data policy forbids to use",
        ),
        Rule(
            "no_duplicate",
            "ExpectCompoundColumnsToBeUnique",
            {"column_list": ["symbol", "session"]},
            "a date that another bar of the symbol has",
        ),
        Rule(
            "no_phantom_session",
            "ExpectColumnValuesToBeInSet",
            {"column": "session", "value_set": "$sessions"},
            "a date that is no session of the exchange",
        ),
        _symbol_is("no_missing_session", "missing", "sessions missing between bars"),
        _symbol_is("splits_visible", "split", "a split that its prices do not show"),
        _symbol_is("fresh", "newest", "no bar at the session"),
    ),
    "corporate_actions": (
        _ANSWERED,
        _COLUMNS,
        Rule(
            "schema",
            "ExpectTableColumnsToMatchSet",
            {"column_set": ACTION_COLUMNS, "exact_match": True},
            "columns that are not those of a corporate action",
        ),
        Rule("value_present", "ExpectColumnValuesToNotBeNull", {"column": "value"}, "no value"),
        _positive("value"),
        Rule(
            "kind_known",
            "ExpectColumnValuesToBeInSet",
            {"column": "kind", "value_set": ["split", "dividend"]},
            "a kind that is neither split nor dividend",
        ),
        Rule(
            "ex_date_is_session",
            "ExpectColumnValuesToBeInSet",
            {"column": "ex_date", "value_set": "$sessions"},
            "an ex-date that is no session of the exchange",
        ),
    ),
}
"""Every rule, by asset. The suites and the checks are made from this table and from nothing else."""


@dataclass(frozen=True)
class Finding:
    """What a rule found.

    Attributes
    ----------
    rule : Rule
    failing : list of dict
        Rows that break it, with symbol and date.
    """

    rule: Rule
    failing: list[dict[str, Any]] = field(default_factory=list)

    @property
    def symbols(self) -> list[str]:
        """Symbols with a failing row, in order of appearance."""
        return list(dict.fromkeys(str(row["symbol"]) for row in self.failing))

    @property
    def message(self) -> str:
        """The finding as the user reads it, with the first failing row."""
        first = self.failing[0]
        at = f" on {first['date']}" if "date" in first else ""
        quoted = [(name, first[name]) for name in self.rule.shown if name in first and not pd.isna(first[name])]
        if self.rule.frame == "symbols":
            shown = ", ".join(str(value) for _, value in quoted)
        else:
            shown = ", ".join(f"{name} {value}" for name, value in quoted)
        named = ", ".join(self.symbols[:10]) + (f" and {len(self.symbols) - 10} more" if len(self.symbols) > 10 else "")
        subject = f"{len(self.failing)} rows of {named} have" if at else f"{named} {_has(len(self.symbols))}"
        return f"{subject} {self.rule.meaning}; the first is {first['symbol']}{at} ({shown})"


def _has(count: int) -> str:
    return "has" if count == 1 else "have"


def quality_specs(asset: str) -> list[dg.AssetCheckSpec]:
    """Declare the checks of an asset, one a rule."""
    return [
        dg.AssetCheckSpec(
            rule.name,
            asset=asset,
            blocking=True,
            description=f"{rule.expectation}, on what is new: fails for {rule.frame} that have {rule.meaning}.",
        )
        for rule in RULES[asset]
    ]


def evaluate_rules(asset: str, frames: Mapping[Frame, pd.DataFrame], sessions: pd.DatetimeIndex) -> list[Finding]:
    """Run the suites on what is new.

    Parameters
    ----------
    asset : {'bars', 'corporate_actions'}
    frames : mapping
        The frames to judge; rules on a frame that is not given are not run.
    sessions : DatetimeIndex
        Sessions of the exchange over the dates of the rows.

    Returns
    -------
    list of Finding
        One a rule that was run, in the table's order.
    """
    findings: dict[str, Finding] = {}
    for frame, data in frames.items():
        rules = [rule for rule in RULES[asset] if rule.frame == frame]
        # nothing new breaks no rule, and the library cannot judge a frame without rows
        findings |= _validate(rules, data, sessions) if len(data) else {rule.name: Finding(rule) for rule in rules}
    return [findings[rule.name] for rule in RULES[asset] if rule.name in findings]


def _validate(rules: Sequence[Rule], data: pd.DataFrame, sessions: pd.DatetimeIndex) -> dict[str, Finding]:
    """Validate one frame with a suite of its rules."""
    import great_expectations as gx
    from great_expectations import expectations
    from great_expectations.data_context.types.base import ProgressBarsConfig

    # its import sends the warnings of the whole process to a logger
    logging.captureWarnings(False)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    suite = gx.ExpectationSuite(name="quality")
    for rule in rules:
        filled = {k: list(sessions) if v == "$sessions" else v for k, v in rule.arguments.items()}
        suite.add_expectation(getattr(expectations, rule.expectation)(**filled, meta={"rule": rule.name}))
    data = data.reset_index(drop=True)
    definition = context.data_sources.add_pandas("new").add_dataframe_asset("new")
    batch = definition.add_batch_definition_whole_dataframe("new").get_batch(batch_parameters={"dataframe": data})
    outcome = batch.validate(suite, result_format={"result_format": "COMPLETE"})
    by_name = {rule.name: rule for rule in rules}
    found = {}
    for result in outcome.results:
        assert result.expectation_config is not None  # each result names its expectation
        rule = by_name[result.expectation_config.meta["rule"]]
        if result.exception_info.get("raised_exception"):
            raise RuntimeError(f"{rule.name}: the expectation itself failed: {result.exception_info}")
        found[rule.name] = Finding(rule, [] if result.success else _failing_rows(result, data, rule))
    return found


def _failing_rows(result: Any, data: pd.DataFrame, rule: Rule) -> list[dict[str, Any]]:
    """Whole rows that broke a rule, as plain values."""
    if "unexpected_index_list" not in result.result:
        # an expectation on the table as a whole
        return [{"symbol": ALL_SYMBOLS, "columns": ", ".join(map(str, result.result["observed_value"]))}]
    rows = data.loc[result.result["unexpected_index_list"]]
    date = "session" if "session" in data else "ex_date"
    if date in rows:
        rows = rows.assign(date=rows[date].dt.strftime("%Y-%m-%d")).drop(columns=date)
    return [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")]


def check_result(asset: str, finding: Finding, judged: int, *, blocks: bool) -> dg.AssetCheckResult:
    """Turn a finding into the result of its check.

    Parameters
    ----------
    judged : int
        Rows that were looked at.
    blocks : bool
        Whether a failure stops the run; else it warns.
    """
    failing = finding.failing
    return dg.AssetCheckResult(
        passed=not failing,
        check_name=finding.rule.name,
        asset_key=asset,
        severity=dg.AssetCheckSeverity.ERROR if blocks else dg.AssetCheckSeverity.WARN,
        description=finding.message if failing else f"none of {judged} new {finding.rule.frame}",
        metadata={
            "expectation": finding.rule.expectation,
            "judged": judged,
            "failing": len(failing),
            "failing_rows": dg.JsonMetadataValue(
                [{k: _plain(v) for k, v in row.items()} for row in failing[:SHOWN_ROWS]]
            ),
        },
    )


def _plain(value: Any) -> Any:
    """A value that JSON can hold."""
    if isinstance(value, bool | int | str):
        return value
    return None if pd.isna(value) else (float(value) if isinstance(value, float) else str(value))
