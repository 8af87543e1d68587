"""Column lineage: from which columns of which assets each column is computed, as one table.

Belongs here: what the UI shows as the lineage of a column. A test holds the table against the graph: every input of
an asset feeds some column, and no column names an asset that is no input.
"""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from trading_dagster.resources.schemas import TABLES

_ACTIONS = ("corporate_actions.ex_date", "corporate_actions.kind", "corporate_actions.value")
_CLOSES = ("bars.close", *_ACTIONS)
_RANGES = ("bars.high", "bars.low", *_CLOSES)
_BARS = ("bars.open", *_RANGES)
_PHASES = ("phasing.cycle", "phasing.phase")
_STATES = ("regime.prob_turbulent", "regime.trend")
_REGIME_MODEL = ("regime_model.parameters", "regime_model.model", "regime_model.fitted_to")
_VOLATILITY_MODEL = ("volatility_model.parameters",)
_FEATURES = (*_CLOSES, *_PHASES, *_STATES, "volatility.sigma_1d")
_MODEL = ("forecast_model.parameters", "forecast_model.artifact")
_EXPECTED = (*_FEATURES, *_MODEL)
_WEIGHT = (*_CLOSES, "forecast.expected_return", "forecast.horizon", "volatility.sigma_1d", "regime.suitability")
_ACCOUNT = ("bars.open", *_CLOSES)
_DECISION = (*_ACCOUNT, "allocation.weight")
_KEYS = ("session", "symbol")


def _all(columns: str, sources: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    return dict.fromkeys(columns.split(), sources)


LINEAGE: dict[str, Mapping[str, tuple[str, ...]]] = {
    "bars": {},
    "corporate_actions": {},
    "phasing": {
        **_all("period phase amplitude snr_db p_value noise fld fld_cross fld_target", _CLOSES),
        **_all("next_trough_bars next_trough_lower next_trough_upper", _CLOSES),
        **_all("trough_provisional trough_confirmed peak_provisional peak_confirmed", _CLOSES),
        **_all("trough_spacing smaller_troughs vtl vtl_break", _CLOSES),
        "cycle": (),
    },
    "harmonics": _all("rank period power p_value", _CLOSES),
    "regime_model": {
        **_all("parameters metrics", _CLOSES),
        "fitted_to": ("bars.session",),
        **_all("month model", ()),
    },
    "regime": {
        **_all("regime prob_calm prob_turbulent suitability sessions_in_regime", (*_CLOSES, *_REGIME_MODEL)),
        "trend": _CLOSES,
        "fitted": ("regime_model.symbol",),
    },
    "volatility_model": {
        **_all("parameters metrics", _BARS),
        "fitted_to": ("bars.session",),
        "month": (),
    },
    "volatility": {
        **_all("sigma_1d sigma_21d sigma_har sigma_garch sigma_rank", (*_BARS, *_VOLATILITY_MODEL)),
        **_all("var_95 var_99 es_975", (*_BARS, *_VOLATILITY_MODEL)),
        "sigma_ewma": _CLOSES,
        "atr": _RANGES,
        "stop_multiple": ("regime.prob_turbulent",),
        "stop_distance": (*_BARS, *_VOLATILITY_MODEL, "regime.prob_turbulent"),
        "fitted": ("volatility_model.symbol",),
    },
    "condition": _all(
        "condition reason",
        (
            *("phasing.cycle", "phasing.p_value", "phasing.period"),
            *("regime.regime", "regime.prob_turbulent", "regime.sessions_in_regime", "regime.trend"),
            *("volatility.sigma_1d", "volatility.sigma_rank"),
            # who may be named at all
            *("bars.session", "corporate_actions.session"),
        ),
    ),
    "forecast_model": {
        **_all("parameters artifact training_rows metrics", (*_BARS, *_REGIME_MODEL, *_VOLATILITY_MODEL)),
        "fitted_to": ("bars.session",),
        "month": (),
    },
    "forecast": {
        **_all("expected_return lower upper p_up confidence", _EXPECTED),
        "horizon": ("forecast_model.parameters",),
        "model": ("forecast_model.month",),
    },
    "allocation": {"weight": _WEIGHT, "method": ()},
    "signals": {
        **_all("action target_weight", _DECISION),
        "current_weight": _ACCOUNT,
        "confidence": ("forecast.confidence",),
        "reason": (
            *_DECISION,
            *(f"forecast.{name}" for name in ("expected_return", "horizon", "p_up")),
            "condition.condition",
            "regime.regime",
            "volatility.sigma_1d",
        ),
    },
    "orders": {
        **_all("side quantity", (*_CLOSES, "signals.target_weight")),
        **_all("reference_price limit_price", ("bars.close",)),
        "reason": ("signals.reason",),
        "client_order_id": ("signals.session", "signals.symbol"),
        **_all("state filled_quantity average_price commission note", ("bars.open", "bars.close", *_ACTIONS)),
    },
}
"""Asset, column, and the ``asset.column`` names that it is computed from; session and symbol follow the inputs."""


def column_lineage(asset: str) -> dg.TableColumnLineage:
    """Lineage of an asset's columns, as Dagster shows it."""
    inputs = {source.split(".")[0] for sources in LINEAGE[asset].values() for source in sources}
    columns = dict(LINEAGE[asset])
    for key in _KEYS:
        if key in TABLES[asset].arrow.names:
            columns[key] = tuple(f"{name}.{key}" for name in sorted(inputs) if key in TABLES[name].key)
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(dg.AssetKey(name), of) for name, of in (s.split(".") for s in sources)]
            for column, sources in columns.items()
        }
    )
