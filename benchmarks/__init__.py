"""Measurements; figures and commands are in the README beside this file."""
