"""Loopback vendors: real HTTP servers that speak the vendors' protocols over a market known in advance."""
