"""All that touches the world: market data sources, brokers, tables, the ledger."""
