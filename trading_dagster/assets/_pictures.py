"""Small pictures for the metadata: what a table of figures does not show."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import dagster as dg
import numpy as np
import pandas as pd

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
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(64).save(buffer, "png", optimize=True)
        if buffer.tell() <= LARGEST:
            encoded = base64.b64encode(buffer.getvalue()).decode()
            return dg.MetadataValue.md(f"![picture](data:image/png;base64,{encoded})")
    raise ValueError(f"a picture takes {buffer.tell()} bytes, more than {LARGEST}; draw less into it")


def phasing_picture(history_value: pd.Series, rows: pd.DataFrame, displaced: pd.Series) -> Picture:
    """Price with its 40-bar FLD, and the phases of all symbols on a clock."""

    def draw(figure: Figure) -> None:
        left = figure.add_subplot(1, 2, 1)
        left.plot(history_value.index, history_value, color=BLUE, lw=1.2, label=str(history_value.name))
        left.plot(displaced.index, displaced, color=ORANGE, lw=1.0, ls="--", label="FLD 40")
        left.legend(fontsize=7, frameon=False)
        left.tick_params(axis="x", rotation=30)
        _plain(left, "price as adjusted at the session")
        wheel = figure.add_subplot(1, 2, 2, projection="polar")
        wheel.set_theta_zero_location("S")  # type: ignore[attr-defined]  # polar axes only
        for cycle, colour in zip((20, 40, 80), (GREY, ORANGE, BLUE), strict=True):
            part = rows[(rows["cycle"] == cycle) & rows["phase"].notna()]
            wheel.scatter(2 * np.pi * part["phase"], np.full(len(part), cycle), s=9, color=colour, label=f"{cycle}")
        wheel.set_yticks([20, 40, 80])
        wheel.set_xticks(np.linspace(0, 1.5 * np.pi, 4), ["trough", "rising", "peak", "falling"], fontsize=7)
        wheel.tick_params(labelsize=6)
        wheel.set_title("phase of every symbol, by cycle", fontsize=8)

    return draw


def regime_picture(market: pd.DataFrame, rows: pd.DataFrame, market_symbol: str) -> Picture:
    """Probabilities of the newest session by symbol, and the market's over the run."""
    states = ["prob_bull_quiet", "prob_bull_volatile", "prob_bear_quiet", "prob_bear_volatile"]
    colours = [GREEN, "#a5d6b7", ORANGE, RED]

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 2, width_ratios=(3, 2))
        newest = rows[rows["session"] == rows["session"].max()]
        bottom = np.zeros(len(newest))
        for state, colour in zip(states, colours, strict=True):
            axes[0].bar(newest["symbol"], newest[state], bottom=bottom, color=colour)
            bottom += newest[state].to_numpy()
        axes[0].tick_params(axis="x", rotation=90, labelsize=6)
        _plain(axes[0], "probability of each state, newest session")
        if len(market) > 1:
            axes[1].stackplot(market["session"], market[states].T.to_numpy(), colors=colours)
            axes[1].tick_params(axis="x", rotation=45)
        else:
            axes[1].bar([s.removeprefix("prob_") for s in states], market[states].iloc[0], color=colours)
            axes[1].tick_params(axis="x", rotation=20)
        _plain(axes[1], f"{market_symbol}: bull (green) to bear (red)")

    return draw


def volatility_picture(rows: pd.DataFrame) -> Picture:
    """Volatility of the newest session by symbol, with the losses it implies."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        newest = rows[rows["session"] == rows["session"].max()].sort_values("sigma_1d")
        axes.bar(newest["symbol"], 100 * newest["es_975"], color="#e8b4ae", label="expected shortfall 97.5 %")
        axes.bar(newest["symbol"], 100 * newest["var_95"], color=ORANGE, label="value at risk 95 %")
        axes.bar(newest["symbol"], 100 * newest["sigma_1d"], color=BLUE, label="one deviation")
        axes.legend(fontsize=7, frameon=False)
        axes.tick_params(axis="x", rotation=90)
        _plain(axes, "one-session risk, % of the position")

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
