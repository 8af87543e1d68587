"""Pure functions on arrays and frames: no Dagster, no input or output, no clock, no settings.

A stage's function takes a `PriceHistory` and the sessions wanted and returns their rows, in one pass.
Row D depends on nothing later than D; `tests/quant/test_cutoff.py` holds every column to that.
"""
