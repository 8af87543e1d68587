"""The pictures of docs/methods.md, drawn by the assets' own functions from five years of the sample."""

from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.quant_speed import MARKET, sample_history

FOLDER = Path(__file__).parents[1] / "docs" / "images"
SHOWN_FROM, SEEN = pd.Timestamp("2018-11-01"), "XOM"


def main() -> None:
    from trading_dagster.assets import _pictures
    from trading_dagster.quant.cycles import phasing
    from trading_dagster.quant.harmonics import harmonics
    from trading_dagster.quant.regime import fit_regime_models, regime
    from trading_dagster.quant.regime_features import values_with_market
    from trading_dagster.quant.volatility import volatility
    from trading_dagster.quant.volatility_models import fit_volatility_models

    history = sample_history()
    sessions = history.sessions[history.sessions >= SHOWN_FROM]
    months = sessions.to_period("M").unique().to_timestamp().as_unit("us")
    ends = pd.DatetimeIndex([history.sessions[history.sessions < month][-1] for month in months])
    states = regime(history, sessions, MARKET, fit_regime_models(history, months, ends, MARKET))
    risk = volatility(history, sessions, fit_volatility_models(history, months, ends), states)
    cycles, peaks = phasing(history, sessions[-1:]), harmonics(history, sessions[-1:])
    market = values_with_market(history, MARKET)[MARKET]
    pictures = {
        "phasing": _pictures.phasing_picture(history, cycles.sort_values("symbol", ascending=False)),
        "regime": _pictures.regime_picture(market, states),
        "volatility": _pictures.volatility_picture(history, risk[risk["symbol"] == SEEN]),
        "harmonics": _pictures.harmonics_picture(peaks),
    }
    for name, draw in pictures.items():
        path = FOLDER / f"methods-{name}.png"
        _save(draw, path)
        print(path.relative_to(FOLDER.parents[1]))


def _save(draw, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    figure = Figure(figsize=(9.6, 4.2), layout="constrained", dpi=110)
    draw(figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(
        64, method=Image.Quantize.MAXCOVERAGE
    ).save(path, "png", optimize=True)
