"""`python -m tests.servers yahoo|alpaca`: a vendor to point the pipeline at by hand.

Belongs here: the command line. Does not belong here: anything that a test needs.
"""

from __future__ import annotations

import argparse
import time

from tests.servers.alpaca import AlpacaDataServer
from tests.servers.universe import default_market
from tests.servers.yahoo import YahooServer


def main() -> None:
    """Serve the default market until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description=main.__doc__)
    parser.add_argument("vendor", choices=["yahoo", "alpaca"])
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes any free one")
    parser.add_argument("--today", default="2018-12-31", help="the vendor's day")
    options = parser.parse_args()
    market = default_market()
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


if __name__ == "__main__":
    main()
