"""Measurements, as ratios to a peer of the same run: `make bench`, or `python -m benchmarks startup` for one."""

import sys

from benchmarks import market_data, phasing, pipeline, startup

BENCHMARKS = {
    "startup": startup.main,
    "phasing": phasing.main,
    "pipeline": pipeline.main,
    "market_data": market_data.main,
}

chosen = sys.argv[1:] or list(BENCHMARKS)
unknown = [name for name in chosen if name not in BENCHMARKS]
if unknown:
    sys.exit(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
for name in chosen:
    print(f"\n## {name}")
    BENCHMARKS[name]()
