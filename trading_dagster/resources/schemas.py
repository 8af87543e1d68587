"""Columns of every table, with types, meaning and units: what is stored, and what the UI shows."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

DATE, TEXT, NUMBER, TIME = pa.date32(), pa.string(), pa.float64(), pa.timestamp("us", tz="UTC")
FRACTION = "fraction of equity"


@dataclass(frozen=True)
class Column:
    """One column: its name, Arrow type, meaning, and whether a value may be missing."""

    name: str
    type: pa.DataType
    description: str
    nullable: bool = False


@dataclass(frozen=True)
class TableSchema:
    """One table.

    Attributes
    ----------
    name : str
        Also the asset's key, except of `quarantine` and `fetches`, which are kept by `bars`.
    key : tuple of str
        Columns that identify a row; the first is the partition's date.
    columns : tuple of Column
    history : bool
        Whether a reader gets all rows up to its session instead of its own session's.
    revisions : bool
        Whether a changed row is added beside the old one, told apart by `known_at`, instead of replacing it.
    may_be_empty : bool
        Whether a partition without rows is an answer rather than a gap.
    """

    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    history: bool = False
    revisions: bool = False
    may_be_empty: bool = False

    @property
    def arrow(self) -> pa.Schema:
        """The stored schema."""
        return pa.schema([pa.field(c.name, c.type, c.nullable) for c in self.columns])

    @property
    def partition_column(self) -> str:
        """Column that holds the partition's date."""
        return self.key[0]

    @property
    def monthly(self) -> bool:
        """Whether a partition is a month."""
        return self.partition_column == "month"


_SESSION = Column("session", DATE, "exchange session")
_SYMBOL = Column("symbol", TEXT, "ticker")
_KNOWN_AT = Column(
    "known_at", TIME, "when this revision became known; a first load counts as known at the session's close"
)


def _number(name: str, description: str, nullable: bool = False) -> Column:
    return Column(name, NUMBER, description, nullable)


_MONTH = Column("month", DATE, "first day of the month that the model serves")
_FITTED_TO = Column("fitted_to", DATE, "last session whose prices were seen")


_TABLES = (
    TableSchema(
        "bars",
        ("session", "symbol"),
        (
            _SESSION,
            _SYMBOL,
            _number("open", "first price as traded, currency per share", True),
            _number("high", "highest price as traded", True),
            _number("low", "lowest price as traded", True),
            _number("close", "last price as traded"),
            _number("volume", "shares traded", True),
            Column("source", TEXT, "where the bar came from"),
            _KNOWN_AT,
        ),
        history=True,
        revisions=True,
    ),
    TableSchema(
        "corporate_actions",
        ("session", "symbol", "ex_date", "kind"),
        (
            _SESSION,
            _SYMBOL,
            Column("ex_date", DATE, "first session that trades without the right"),
            Column("kind", TEXT, "`split` or `dividend`"),
            _number("value", "new shares per old share; cash per share as traded"),
            Column("source", TEXT, "where the action came from"),
            _KNOWN_AT,
        ),
        history=True,
        revisions=True,
        may_be_empty=True,
    ),
    TableSchema(
        "quarantine",
        ("session", "symbol"),
        (
            Column("session", DATE, "date of the bar, which need not be a session"),
            _SYMBOL,
            _number("open", "as the source gave it", True),
            _number("high", "as the source gave it", True),
            _number("low", "as the source gave it", True),
            _number("close", "as the source gave it"),
            _number("volume", "as the source gave it", True),
            Column("source", TEXT, "where the bar came from"),
            Column("reason", TEXT, "`jump`, `spike` (a jump that the next bar reverted) or `phantom`"),
            Column("detail", TEXT, "what was measured, and against which bound"),
            Column("state", TEXT, "`quarantined`, `released` by an operator, or `corrected` by the vendor"),
            Column("operator", TEXT, "who released it; empty until then"),
            Column("note", TEXT, "why it was released; empty until then"),
            _KNOWN_AT,
        ),
        history=True,
        revisions=True,
        may_be_empty=True,
    ),
    TableSchema(
        "fetches",
        ("session", "asset", "symbol"),
        (
            Column("session", DATE, "last session asked for"),
            Column("asset", TEXT, "`bars` or `corporate_actions`"),
            _SYMBOL,
            Column("last_bar", DATE, "newest bar of the symbol then; missing for actions and without any", True),
            Column("columns", TEXT, "columns of the source's answer, as it names them"),
            Column("source", TEXT, "who was asked"),
            Column("known_at", TIME, "when it answered"),
        ),
        history=True,
        revisions=True,
        may_be_empty=True,
    ),
    TableSchema(
        "phasing",
        ("session", "symbol", "cycle"),
        (
            _SESSION,
            _SYMBOL,
            Column("cycle", pa.int16(), "nominal period, bars"),
            _number("period", "fitted period, bars", True),
            _number("phase", "0 at a trough, 0.5 at a peak, in [0, 1)", True),
            _number("amplitude", "half the swing, log price"),
            _number("snr_db", "signal-to-noise ratio of the fit, decibels", True),
            _number("p_value", "chance of such a cycle in noise, corrected for the periods scanned"),
            Column("noise", TEXT, "`random_walk` or `white`: the noise that the window looks more like", True),
            _number("fld", "future line of demarcation: price half a cycle ago, adjusted as of the session"),
            Column("fld_cross", pa.int8(), "1 price crossed it upward, -1 downward, 0 not"),
            _number("fld_target", "price that the last cross projects, adjusted as of the session", True),
            _number("next_trough_bars", "bars to the next expected trough", True),
            _number("next_trough_lower", "earliest bar of it, 90 % interval of the fit", True),
            _number("next_trough_upper", "latest bar of it, 90 % interval of the fit", True),
            Column("trough_provisional", DATE, "lowest bar since the last confirmed turn; may still move", True),
            Column("trough_confirmed", DATE, "last confirmed trough; never moved", True),
            Column("peak_provisional", DATE, "highest bar since the last confirmed turn; may still move", True),
            Column("peak_confirmed", DATE, "last confirmed peak; never moved", True),
            _number("trough_spacing", "median bars between the last confirmed troughs", True),
            _number("smaller_troughs", "troughs of the next smaller cycle within the last complete one", True),
            _number("vtl", "valid trend line through the last two confirmed troughs, price as of the session", True),
            Column("vtl_break", pa.int8(), "-1 the close fell through the line at this session, 1 it rose back, 0 no"),
        ),
    ),
    TableSchema(
        "harmonics",
        ("session", "symbol", "rank"),
        (
            _SESSION,
            _SYMBOL,
            Column("rank", pa.int16(), "1 the most significant peak of the spectrum; 0 says that there is none"),
            _number("period", "bars; missing where there is no peak", True),
            _number("power", "multiple of the red noise expected at that period", True),
            _number("p_value", "corrected for all frequencies tested; of rank 0 the smallest that was found"),
        ),
    ),
    TableSchema(
        "regime",
        ("session", "symbol"),
        (
            _SESSION,
            Column("symbol", TEXT, "ticker, or MARKET for the equal-weight market"),
            Column("regime", TEXT, "`calm` or `turbulent`"),
            _number("prob_calm", "probability of the state of less risk"),
            _number("prob_turbulent", "probability of the state of more risk"),
            _number("suitability", "share of the full exposure that the states suit"),
            Column(
                "sessions_in_regime", pa.int32(), "sessions since the state last changed, by the month's parameters"
            ),
            _number("trend", "price against its 200-bar mean, deviations of a random walk; 0 where it cannot be said"),
            Column("fitted", TEXT, "`own` parameters, or the `market`'s where the symbol had too few bars for its own"),
        ),
    ),
    TableSchema(
        "regime_model",
        ("month", "symbol"),
        (
            _MONTH,
            Column("symbol", TEXT, "ticker, or MARKET for the equal-weight market"),
            _FITTED_TO,
            Column("model", TEXT, "`jump` or `hmm`"),
            Column("parameters", TEXT, "all that the filter needs, JSON"),
            Column("metrics", TEXT, "figures of the fit, JSON"),
        ),
    ),
    TableSchema(
        "volatility",
        ("session", "symbol"),
        (
            _SESSION,
            _SYMBOL,
            _number("sigma_1d", "standard deviation of the next session's log return: geometric mean of the next two"),
            _number("sigma_21d", "standard deviation per day of log returns over the next 21 sessions"),
            _number("sigma_har", "the next session's by the heterogeneous autoregression"),
            _number("sigma_garch", "the next session's by GJR-GARCH with Student-t errors"),
            _number("sigma_ewma", "the next session's by exponential weighting, the baseline"),
            _number("sigma_rank", "share of the last 252 sessions whose sigma_1d was not above this one"),
            _number("var_95", "one-session loss not exceeded with 95 %, fraction of the position"),
            _number("var_99", "one-session loss not exceeded with 99 %, fraction of the position"),
            _number("es_975", "mean one-session loss in the worst 2.5 %, fraction of the position"),
            _number("atr", "average true range of 14 sessions, price; missing without ranges", True),
            _number(
                "stop_multiple", "average true ranges that a stop is away; without ranges one is 1.596 sigma_1d x close"
            ),
            _number("stop_distance", "distance of a stop from the close, price"),
            Column("fitted", TEXT, "`own` parameters, or the `pooled` ones where it had too few bars for its own"),
        ),
    ),
    TableSchema(
        "volatility_model",
        ("month", "symbol"),
        (
            _MONTH,
            Column("symbol", TEXT, "ticker, or POOLED for the parameters of symbols without their own"),
            _FITTED_TO,
            Column("parameters", TEXT, "all that the filter needs, JSON"),
            Column("metrics", TEXT, "figures of the fit, JSON"),
        ),
    ),
    TableSchema(
        "condition",
        ("session", "symbol"),
        (
            _SESSION,
            _SYMBOL,
            Column("condition", TEXT, "`trending`, `cyclical`, `volatile`, `compressed` or `resetting`"),
            Column("reason", TEXT, "why, in words"),
        ),
    ),
    TableSchema(
        "forecast_model",
        ("month",),
        (
            _MONTH,
            _FITTED_TO,
            Column("parameters", TEXT, "all but the trees, JSON"),
            Column("artifact", pa.binary(), "the trees, XGBoost UBJSON"),
            Column("training_rows", pa.int64(), "rows fitted, one a session and symbol"),
            Column("metrics", TEXT, "out-of-sample figures, JSON"),
        ),
    ),
    TableSchema(
        "forecast",
        ("session", "symbol"),
        (
            _SESSION,
            _SYMBOL,
            Column("horizon", pa.int16(), "sessions ahead"),
            _number("expected_return", "log return over the horizon"),
            _number("lower", "lower bound of 90 % of outcomes, log return"),
            _number("upper", "upper bound of 90 % of outcomes, log return"),
            _number("p_up", "probability of a positive return"),
            _number("confidence", "|2 p_up - 1|"),
            Column("model", TEXT, "model and the month it serves"),
        ),
    ),
    TableSchema(
        "allocation",
        ("session", "symbol"),
        (_SESSION, _SYMBOL, _number("weight", FRACTION), Column("method", TEXT, "how it was found")),
    ),
    TableSchema(
        "signals",
        ("session", "symbol"),
        (
            _SESSION,
            _SYMBOL,
            Column("action", TEXT, "`BUY`, `SELL` or `HOLD`"),
            _number("target_weight", FRACTION + " wanted; on HOLD what is held"),
            _number("current_weight", FRACTION + " held at the close"),
            _number("confidence", "of the forecast behind it"),
            Column("reason", TEXT, "why, in words"),
        ),
    ),
    TableSchema(
        "orders",
        ("session", "client_order_id"),
        (
            _SESSION,
            _SYMBOL,
            Column("client_order_id", TEXT, "identity at ledger and broker"),
            Column("side", TEXT, "`buy` or `sell`"),
            _number("quantity", "shares ordered"),
            _number("limit_price", "most that a buy may pay a share; missing for an order at market", True),
            _number("reference_price", "close at the decision, as traded"),
            Column("state", TEXT, "state when copied; the ledger is the truth"),
            _number("filled_quantity", "shares"),
            _number("average_price", "of the fills, slippage included", True),
            _number("commission", "currency"),
            Column("reason", TEXT, "why it was decided"),
            Column("note", TEXT, "why it ended otherwise than filled"),
        ),
        may_be_empty=True,
    ),
)

TABLES: dict[str, TableSchema] = {table.name: table for table in _TABLES}
