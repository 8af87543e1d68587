"""Order planning, accounting and the trading of one session: logic over the ledger, without Dagster."""
