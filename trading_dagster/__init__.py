"""A daily quantitative trading pipeline as a Dagster project."""

__version__ = "0.1.0"
