"""Stages, one module each: read, call `quant` or `execution`, return a table with metadata."""
