"""Asset checks: the data policy on every stage, market-data quality, decisions."""
