"""Phasing: where price stands in its nominal 20-, 40- and 80-bar cycles, from past bars only.

Belongs here: fitting a cycle to a window that ends at the session, and the lines drawn from it. Does not
belong here: what to do about a cycle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from trading_dagster.quant.prices import PriceHistory, long_rows

NOMINAL_CYCLES = (20, 40, 80)
WINDOW_PERIODS = 3
"""Length of the fitted window in nominal periods: fewer cannot tell a cycle from a trend."""

PERIOD_RANGE = (0.75, 1.35)
"""Shortest and longest period tried, relative to the nominal one."""

PERIODS_TRIED = 13

BLOCK = 64
"""Rows of one matrix product; a multiple of every BLAS kernel's own block."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Design:
    """Least-squares operators of one candidate period over one window."""

    period: float
    solve: Floats  # (2, W): window -> coefficients of cosine and sine, time 0 at the window's end
    basis: Floats  # (W, 4): orthonormal basis of constant, trend, cosine, sine
    return_basis: Floats  # (W - 1, 3): orthonormal basis of constant, cosine, sine, for first differences


def phasing(
    history: PriceHistory, sessions: pd.DatetimeIndex, cycles: tuple[int, ...] = NOMINAL_CYCLES
) -> pd.DataFrame:
    """Fit each nominal cycle to the window that ends at each session.

    Parameters
    ----------
    history : PriceHistory
    sessions : DatetimeIndex
        Sessions to return.
    cycles : tuple of int
        Nominal periods in bars. A longer cycle needs a longer window, so it answers later.

    Returns
    -------
    DataFrame
        One row a session, symbol and cycle, sorted in that order: period (bars), phase (0 at a trough, 0.5
        at a peak, in [0, 1)), amplitude (log price), snr_db, p_value, fld and fld_target (price as traded at
        the session), fld_cross (-1, 0, 1), next_trough_bars. Phase, period and signal-to-noise ratio are
        missing where the window is incomplete or the price constant.

    Notes
    -----
    Over the window of W = 3 N bars, log price is regressed on a constant, a trend, and a cosine and sine of
    each of 13 periods between 0.75 N and 1.35 N; the period with the smallest residual is kept (nonlinear
    least squares on a grid [1]_). The p-value is that of the same period in the *returns* of the window:
    levels of a random walk show a "cycle" in nearly every window, differences do not. With two
    coefficients tested it is ``(RSS_1 / RSS_0) ** (nu / 2)``, the F(2, nu) tail in closed form, then
    corrected for the 13 periods by Sidak's rule, which is conservative since neighbours are dependent.

    The future line of demarcation (FLD) is price displaced forward by half the nominal cycle [2]_. A cross
    projects the move since the last extreme of the cycle onward by the same ratio, so that a target is
    never below zero; it stands until the next cross.

    References
    ----------
    .. [1] Rife, D. C. and Boorstyn, R. R. (1974). "Single-tone parameter estimation from discrete-time
       observations". IEEE Transactions on Information Theory 20(5), 591-598.
    .. [2] Hurst, J. M. (1970). The Profit Magic of Stock Transaction Timing. Prentice-Hall, ch. 3 and 6.
    """
    parts = []
    for cycle in cycles:
        columns = _fit_cycle(history, sessions, cycle)
        part = long_rows(columns, sessions)
        part.insert(2, "cycle", cycle)
        parts.append(part)
    rows = pd.concat(parts, ignore_index=True)
    rows["fld_cross"] = rows["fld_cross"].astype("int8")
    return rows.sort_values(["session", "symbol", "cycle"], ignore_index=True)


def _fit_cycle(history: PriceHistory, sessions: pd.DatetimeIndex, cycle: int) -> dict[str, pd.DataFrame]:
    """All columns of one nominal cycle, as frames of the wanted sessions by symbols."""
    log_price = np.log(history.total_return)
    at = np.flatnonzero(history.sessions.isin(sessions))
    index = history.sessions[at]
    window = WINDOW_PERIODS * cycle
    designs = [_design(period, window) for period in _candidate_periods(cycle)]
    names = ("period", "phase", "amplitude", "snr_db", "p_value")
    fitted = {name: np.full((len(at), len(history.symbols)), np.nan) for name in names}
    enough = np.flatnonzero(at >= window - 1)
    for column, symbol in enumerate(history.symbols if len(enough) else []):
        values = log_price[symbol].to_numpy()
        windows = sliding_window_view(values, window)[at[enough] - window + 1]
        for name, result in _fit_windows(windows, designs).items():
            fitted[name][enough, column] = result
    columns = {name: pd.DataFrame(v, index=index, columns=history.symbols) for name, v in fitted.items()}
    columns |= {name: frame.loc[index] for name, frame in _future_line(history, cycle).items()}
    columns["next_trough_bars"] = (1.0 - columns["phase"]) * columns["period"]
    return columns


def _candidate_periods(cycle: int) -> Floats:
    return np.geomspace(PERIOD_RANGE[0] * cycle, PERIOD_RANGE[1] * cycle, PERIODS_TRIED)


def _design(period: float, window: int) -> _Design:
    """Operators of one period; time runs from ``1 - window`` to 0, so that the phase is the endpoint's."""
    time = np.arange(1 - window, 1, dtype=float)
    angle = 2.0 * np.pi * time / period
    matrix = np.column_stack([np.ones(window), time / window, np.cos(angle), np.sin(angle)])
    # the difference of a sinusoid is a sinusoid of the same period
    change = np.column_stack([np.ones(window - 1), np.cos(angle[1:]), np.sin(angle[1:])])
    return _Design(
        period=period,
        solve=np.linalg.pinv(matrix)[2:],
        basis=np.linalg.qr(matrix)[0],
        return_basis=np.linalg.qr(change)[0],
    )


def _fit_windows(windows: Floats, designs: list[_Design]) -> dict[str, Floats]:
    """Fit every window (rows) with every period and keep the best.

    Windows with a missing value, or without any movement, yield missing values and a p-value of 1.
    """
    complete: NDArray[np.bool_] = np.all(np.isfinite(windows), axis=1)
    # centred on its last value each window is of the size of its own moves, whatever the price level
    centred = np.where(complete[:, None], windows - windows[:, -1:], 0.0)
    total = np.einsum("ij,ij->i", centred, centred)
    residual = total[:, None] - _explained(centred, [design.basis for design in designs])
    best = residual.argmin(axis=1)
    rss = np.maximum(residual[np.arange(len(best)), best], 0.0)
    coefficients = _product(centred, np.concatenate([design.solve for design in designs]).T)
    cosine, sine = coefficients.reshape(len(best), len(designs), 2)[np.arange(len(best)), best].T
    returns = np.diff(centred, axis=1)
    moving = complete & (np.abs(returns).max(axis=1) > 0)

    amplitude = np.hypot(cosine, sine)
    # y = A cos(w t - phi); at t = 0 the angle is -phi, and a trough is where the angle is pi
    phase = np.mod(0.5 - np.arctan2(sine, cosine) / (2.0 * np.pi), 1.0)
    phase[phase >= 1.0] = 0.0
    noise = rss / (windows.shape[1] - 5)
    with np.errstate(divide="ignore", invalid="ignore"):
        snr_db = 10.0 * np.log10(np.square(amplitude) / 2.0 / noise)
    p_value = _return_p_value(returns, best, designs)
    missing = ~moving
    periods = np.array([design.period for design in designs])[best]
    return {
        "period": np.where(missing, np.nan, periods),
        "phase": np.where(missing, np.nan, phase),
        "amplitude": np.where(complete, np.where(missing, 0.0, amplitude), np.nan),
        "snr_db": np.where(missing, np.nan, snr_db),
        "p_value": np.where(complete, np.where(missing, 1.0, p_value), np.nan),
    }


def _return_p_value(returns: Floats, best: NDArray[np.intp], designs: list[_Design]) -> Floats:
    """Sidak-corrected p-value of the chosen period in the window's returns."""
    total = np.einsum("ij,ij->i", returns, returns)
    mean = np.square(returns.sum(axis=1)) / returns.shape[1]
    without = total - mean
    explained = _explained(returns, [design.return_basis for design in designs])
    remaining = total - explained[np.arange(len(best)), best]
    freedom = returns.shape[1] - 3
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(without > 0, np.clip(remaining / without, 0.0, 1.0), 1.0)
    single = ratio ** (freedom / 2.0)
    return -np.expm1(len(designs) * np.log1p(-np.minimum(single, 1.0 - 1e-16)))


def _explained(rows: Floats, bases: list[Floats]) -> Floats:
    """Sum of squares of each row (n, W) that each orthonormal basis explains; shape (n, len(bases))."""
    projected = _product(rows, np.concatenate(bases, axis=1))
    return np.square(projected).reshape(len(rows), len(bases), -1).sum(axis=2)


def _product(rows: Floats, matrix: Floats) -> Floats:
    """``rows @ matrix`` whose every row has the same bits whatever other rows there are.

    BLAS chooses its kernels by the shape, and they differ in the last bits. A session computed alone must equal
    the same session in a range, so all products are of one shape.
    """
    whole = np.zeros((-(-len(rows) // BLOCK) * BLOCK, rows.shape[1]))
    whole[: len(rows)] = rows
    blocks = [whole[start : start + BLOCK] @ matrix for start in range(0, len(whole), BLOCK)]
    return np.concatenate(blocks)[: len(rows)] if blocks else np.empty((0, matrix.shape[1]))


def _future_line(history: PriceHistory, cycle: int) -> dict[str, pd.DataFrame]:
    """Future line of demarcation, its crosses and their target, in prices as of each session."""
    value = history.total_return
    displaced = value.shift(cycle // 2)
    distance = value - displaced
    before = distance.shift(1)
    up = (distance > 0) & (before <= 0)
    down = (distance < 0) & (before >= 0)
    cross = up.astype("int8") - down.astype("int8")
    low, high = value.rolling(cycle).min(), value.rolling(cycle).max()
    target = (value**2 / low).where(up, (value**2 / high).where(down)).ffill()
    return {
        "fld": displaced / history.factor,
        "fld_cross": cross,
        "fld_target": target / history.factor,
    }
