"""`python -m tests.servers yahoo|alpaca|alpaca-trading`: a vendor to point the pipeline at by hand.

Belongs here: the command line. Does not belong here: anything that a test needs.
"""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime

from tests.servers.alpaca import AlpacaDataServer
from tests.servers.alpaca_trading import AlpacaTradingServer
from tests.servers.universe import default_market
from tests.servers.yahoo import YahooServer


def main() -> None:
    """Serve the default market until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=main.__doc__)
    parser.add_argument("vendor", choices=["yahoo", "alpaca", "alpaca-trading"])
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes any free one")
    parser.add_argument("--today", default="2018-12-31", help="the vendor's day; of alpaca-trading, that of the prices")
    parser.add_argument("--fill", action="store_true", help="alpaca-trading: fill open orders every second")
    options = parser.parse_args()
    market = default_market()
    if options.vendor == "alpaca-trading":
        closes = {name: listing.until(options.today).bars["close"].dropna() for name, listing in market.items()}
        prices = {name: f"{series.iloc[-1]:.2f}" for name, series in closes.items() if len(series)}
        with AlpacaTradingServer(prices, now=datetime.now(UTC), port=options.port) as brokerage:
            _trade(brokerage, options.fill)
        return
    vendor = YahooServer if options.vendor == "yahoo" else AlpacaDataServer
    with vendor(market, options.today, options.port) as server:
        print(server.url, flush=True)
        print("symbols:", ",".join(market), flush=True)
        if isinstance(server, AlpacaDataServer):
            print("key:", server.key, "secret:", server.secret, flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            print("stopped")


def _trade(server: AlpacaTradingServer, fill: bool) -> None:
    """Keep the server's clock, and fill its orders if asked to, until interrupted."""
    print(server.url, flush=True)
    print("symbols:", ",".join(server.prices), flush=True)
    print("key:", server.key, "secret:", server.secret, flush=True)
    try:
        while True:
            time.sleep(1)
            server.now = datetime.now(UTC)
            for order in server.trade_open() if fill else ():
                print("filled:", order.side, order.qty, order.symbol, "at", order.filled_avg_price, flush=True)
    except KeyboardInterrupt:
        print("stopped")


if __name__ == "__main__":
    main()
