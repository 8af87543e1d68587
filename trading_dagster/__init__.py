"""A daily quantitative trading pipeline as a Dagster project."""

import gc

__version__ = "0.1.0"

# The imports below this package make some hundred thousand objects that live as long as the process. The
# default threshold of 700 has the collector walk them again and again: 0.25 s of 3 s, for nothing found.
gc.set_threshold(10_000, 20, 20)
