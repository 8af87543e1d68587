"""Measurements, as ratios to a peer of the same run: `make bench`, or `python -m benchmarks startup` for one."""

import sys

from benchmarks import deployment, market_data, pictures, pipeline, quant, startup

BENCHMARKS = {
    "startup": startup.main,
    "quant": quant.main,
    "pipeline": pipeline.main,
    "market_data": market_data.main,
}
ON_REQUEST = {"deployment": deployment.main, "pictures": pictures.main}

chosen = sys.argv[1:] or list(BENCHMARKS)
known = BENCHMARKS | ON_REQUEST
unknown = [name for name in chosen if name not in known]
if unknown:
    sys.exit(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
for name in chosen:
    print(f"\n## {name}")
    known[name]()
