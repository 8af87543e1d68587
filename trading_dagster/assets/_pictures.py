"""Small pictures for the metadata: what a table of figures does not show."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import pandas as pd

from trading_dagster.quant.prices import PriceHistory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Picture = Callable[["Figure"], None]

LARGEST = 30_000
"""Bytes; each event of the UI carries its picture."""

BLUE, ORANGE, GREY, GREEN, RED = "#1f5fa8", "#d9822b", "#8a8f98", "#2e8b57", "#c0392b"


def png_markdown(draw: Picture) -> dg.MarkdownMetadataValue:
    """Draw a picture and embed it.

    Raises
    ------
    ValueError
        If it is larger than `LARGEST` even at a low resolution.
    """
    # the object interface: pyplot keeps every figure of a process alive
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    draw(figure)
    for dots in (110, 90, 70):
        figure.set_dpi(dots)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        buffer = io.BytesIO()
        # a line drawing has few colours; a palette makes it a third of the size
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(
            64, method=Image.Quantize.MAXCOVERAGE
        ).save(buffer, "png", optimize=True)
        if buffer.tell() <= LARGEST:
            encoded = base64.b64encode(buffer.getvalue()).decode()
            return dg.MetadataValue.md(f"![picture](data:image/png;base64,{encoded})")
    raise ValueError(f"a picture takes {buffer.tell()} bytes, more than {LARGEST}; draw less into it")


def phasing_picture(history: PriceHistory, rows: pd.DataFrame) -> Picture:
    """Price of one symbol with its 40-bar FLD, turns and trend line, and the phases of all symbols on a wheel.

    Parameters
    ----------
    rows : DataFrame
        Of `phasing` at the history's last session.
    """

    def draw(figure: Figure) -> None:
        left = figure.add_subplot(1, 2, 1)
        symbol = str(rows["symbol"].iloc[0])
        _price_with_lines(left, history, rows[rows["symbol"] == symbol], symbol)
        wheel = figure.add_subplot(1, 2, 2, projection="polar")
        wheel.set_theta_zero_location("S")  # type: ignore[attr-defined]  # polar axes only
        cycles = sorted(rows["cycle"].unique())
        for ring, cycle in enumerate(cycles, start=1):
            part = rows[(rows["cycle"] == cycle) & rows["phase"].notna()]
            sizes = np.where(part["p_value"] < 0.05, 26, 7)
            colours = np.where(part["p_value"] < 0.05, RED, BLUE)
            wheel.scatter(2 * np.pi * part["phase"], np.full(len(part), ring), s=sizes, c=colours, linewidths=0)
        wheel.set_yticks(range(1, len(cycles) + 1), [f"{cycle}" for cycle in cycles])
        wheel.set_ylim(0, len(cycles) + 0.5)
        wheel.set_xticks(np.linspace(0, 1.5 * np.pi, 4), ["trough", "rising", "peak", "falling"], fontsize=7)
        wheel.tick_params(labelsize=6)
        wheel.set_title("phase of every symbol, a ring a cycle; red: p < 5 %", fontsize=8)

    return draw


def _price_with_lines(axes: Axes, history: PriceHistory, rows: pd.DataFrame, symbol: str) -> None:
    """Last 160 closes as adjusted at the newest session, with what the 40-bar cycle says of them."""
    factor = history.factor[symbol]
    price = (history.total_return[symbol] / factor.iloc[-1]).iloc[-240:]
    row = rows[rows["cycle"] == 40].iloc[0]
    shown = price.iloc[-160:]
    axes.plot(shown.index, shown, color=BLUE, lw=1.2, label=symbol)
    axes.plot(shown.index, price.shift(20).iloc[-160:], color=ORANGE, lw=1.0, ls="--", label="FLD 40")
    for kind, marker, colour in (("trough", "^", GREEN), ("peak", "v", RED)):
        for state, face in (("confirmed", colour), ("provisional", "none")):
            at = row[f"{kind}_{state}"]
            if at is not pd.NaT and at in shown.index:
                axes.plot([at], [shown[at]], marker, color=colour, markerfacecolor=face, ms=6)
    at = row["trough_confirmed"]
    if np.isfinite(row["vtl"]) and at in shown.index:
        axes.plot([at, shown.index[-1]], [shown[at], row["vtl"]], color=GREY, lw=1.0, label="VTL 40")
    axes.legend(fontsize=7, frameon=False)
    axes.tick_params(axis="x", rotation=30)
    _plain(axes, "price as adjusted now; filled: confirmed turns")


def regime_picture(market: pd.Series, rows: pd.DataFrame) -> Picture:
    """Ribbon of the market's regime under its value, and the newest probabilities by symbol.

    Parameters
    ----------
    market : Series
        Value of the equal-weight market; its name is the name of its rows.
    rows : DataFrame
        Of `regime`, of all sessions that were published and are to be shown.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots(2, 2, width_ratios=(3, 2), height_ratios=(5, 1), sharex="col")
        own = rows[rows["symbol"] == market.name]
        value = market.loc[own["session"].min() - pd.Timedelta(days=200) :]
        # sessions that were not computed stay white
        own = own.set_index("session").reindex(value.loc[own["session"].min() :].index).reset_index()
        axes[0, 0].plot(value.index, 100 * value / value.iloc[0], color=BLUE, lw=1.2)
        _plain(axes[0, 0], f"{market.name}, first shown = 100")
        _ribbon(axes[1, 0], own)
        axes[1, 0].tick_params(axis="x", rotation=30)
        newest = rows[rows["session"] == rows["session"].max()].sort_values("prob_turbulent")
        colours = np.where(newest["regime"] == "turbulent", RED, GREEN)
        axes[0, 1].bar(newest["symbol"], newest["prob_turbulent"], color=colours)
        axes[0, 1].set_ylim(0, 1)
        axes[0, 1].tick_params(axis="x", rotation=90, labelsize=6, labelbottom=True)
        _plain(axes[0, 1], "probability of turbulence, newest")
        axes[1, 1].remove()

    return draw


def _ribbon(axes: Axes, rows: pd.DataFrame) -> None:
    """Green where calm, red where turbulent, paler where less certain."""
    edges = rows["session"].to_numpy()
    edges = np.append(edges, edges[-1] + np.timedelta64(1, "D"))
    shades = np.ma.masked_invalid(rows["prob_turbulent"].to_numpy()[None, :])
    axes.pcolormesh(edges, [0, 1], shades, cmap="RdYlGn_r", vmin=0, vmax=1)
    axes.set_yticks([])
    _plain(axes, "regime: green calm, red turbulent")


CONE_HORIZONS = (5, 10, 21, 42, 63, 126, 252)


def volatility_picture(history: PriceHistory, rows: pd.DataFrame) -> Picture:
    """Volatility cone of one symbol with its forecasts, and its returns beside the losses that were forecast.

    Parameters
    ----------
    rows : DataFrame
        Of `volatility`, of all sessions that were published and are to be shown.
    """

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 2)
        symbol = str(rows["symbol"].iloc[-1])
        own = rows[rows["symbol"] == symbol].set_index("session")
        returns = history.log_return[symbol].dropna()
        realised = [returns.rolling(n).std().dropna().iloc[-2520:] * np.sqrt(252) for n in CONE_HORIZONS]
        bands = np.array([100 * sigma.quantile([0.05, 0.25, 0.5, 0.75, 0.95]) for sigma in realised]).T
        axes[0].fill_between(CONE_HORIZONS, bands[0], bands[4], color=BLUE, alpha=0.15, lw=0)
        axes[0].fill_between(CONE_HORIZONS, bands[1], bands[3], color=BLUE, alpha=0.25, lw=0)
        axes[0].plot(CONE_HORIZONS, bands[2], color=BLUE, lw=1.2)
        newest = 100 * np.sqrt(252) * own[["sigma_1d", "sigma_21d"]].iloc[-1]
        axes[0].plot([1, 21], newest, "o-", color=ORANGE, ms=4, label="forecast")
        axes[0].set_xscale("log", base=2)
        axes[0].set_xticks([1, *CONE_HORIZONS], [f"{n}" for n in (1, *CONE_HORIZONS)])
        axes[0].legend(fontsize=7, frameon=False)
        _plain(axes[0], f"{symbol}: volatility, % a year, by sessions (5 to 95 % of 10 years)")
        _breaches(axes[1], np.expm1(history.log_return[symbol]), own)

    return draw


def _breaches(axes: Axes, returns: pd.Series, forecasts: pd.DataFrame) -> None:
    """Returns of the session after each forecast, those beyond the value at risk in red."""
    # where no forecast was made there is a gap, not a line across it
    forecasts = forecasts.reindex(returns.loc[forecasts.index[0] :].index)
    after = returns.shift(-1).reindex(forecasts.index).where(forecasts["var_99"].notna())
    beyond = after < -forecasts["var_99"]
    axes.vlines(after.index, 0, 100 * after, color=GREY, lw=0.8)
    axes.plot(forecasts.index, -100 * forecasts["var_99"], color=ORANGE, lw=1.0, drawstyle="steps-post")
    axes.plot(after.index[beyond], 100 * after[beyond], "o", color=RED, ms=3)
    axes.tick_params(axis="x", rotation=30)
    told = f"{int(beyond.sum())} of {int(after.notna().sum())} beyond"
    _plain(axes, f"next return and 99 % value at risk, %: {told}")


def harmonics_picture(rows: pd.DataFrame) -> Picture:
    """P-value of the most significant peak of each symbol at the newest session, with the period where it counts."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        newest = rows[(rows["session"] == rows["session"].max()) & (rows["rank"] <= 1)]
        significant = newest["rank"] == 1
        evidence = -np.log10(newest["p_value"].clip(lower=1e-12))
        axes.bar(newest["symbol"], evidence, color=np.where(significant, RED, GREY))
        axes.axhline(-np.log10(0.05), color=ORANGE, lw=1.0, ls="--")
        for symbol, height, period in zip(
            newest["symbol"][significant], evidence[significant], newest["period"][significant], strict=True
        ):
            axes.text(symbol, height, f"{period:.0f}", ha="center", va="bottom", fontsize=7)
        axes.set_ylim(0, max(2.0, 1.15 * evidence.max()))
        axes.tick_params(axis="x", rotation=90)
        told = f"{int(significant.sum())} of {len(newest)} symbols have a significant peak; above it its period in bars"
        _plain(axes, f"{told}; minus log10 of the p-value")

    return draw


def forecast_picture(rows: pd.DataFrame) -> Picture:
    """Expected return of the newest session by symbol, with the 90 % interval faint behind it."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 2)
        newest = rows[rows["session"] == rows["session"].max()].sort_values("expected_return")
        colours = np.where(newest["expected_return"] >= 0, GREEN, RED)
        axes[0].barh(newest["symbol"], 100 * newest["expected_return"], color=colours)
        _plain(axes[0], f"expected log return, {int(newest['horizon'].iloc[0])} sessions, %")
        axes[1].hlines(newest["symbol"], 100 * newest["lower"], 100 * newest["upper"], color=GREY, lw=3)
        axes[1].plot(100 * newest["expected_return"], newest["symbol"], "|", color=BLUE)
        axes[1].set_yticks([])
        _plain(axes[1], "where 90 % of outcomes lie, %")

    return draw


def allocation_picture(rows: pd.DataFrame) -> Picture:
    """Weights of the newest session, and invested share over the run."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 2, width_ratios=(3, 2))
        newest = rows[rows["session"] == rows["session"].max()].sort_values("weight", ascending=False)
        axes[0].bar(newest["symbol"], 100 * newest["weight"], color=BLUE)
        axes[0].tick_params(axis="x", rotation=90)
        _plain(axes[0], "target weight, % of equity")
        gross = rows.groupby("session")["weight"].sum()
        axes[1].plot(gross.index, 100 * gross, color=ORANGE, marker="." if len(gross) < 3 else "")
        axes[1].set_ylim(0, 100)
        axes[1].tick_params(axis="x", rotation=45)
        _plain(axes[1], "invested, % of equity")

    return draw


def equity_picture(equity: pd.Series, benchmark: pd.Series) -> Picture:
    """Equity of the account beside equal-weight buy and hold."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        marker = "." if len(equity) < 3 else ""
        axes.plot(equity.index, equity, color=BLUE, lw=1.5, marker=marker, label="account")
        axes.plot(benchmark.index, benchmark, color=GREY, lw=1.2, ls="--", label="equal-weight buy and hold")
        axes.legend(fontsize=7, frameon=False)
        axes.tick_params(axis="x", rotation=30)
        _plain(axes, "equity, currency")

    return draw


def _plain(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=8, loc="left")
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
