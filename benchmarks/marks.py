"""Figures beside the marks they are held against, as a table."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Mark:
    """One line of a benchmark.

    Attributes
    ----------
    what : str
        What was measured, and on what.
    mark : str
        What it is held against, with its direction, such as ``<= 0.310``; empty where there is none.
    ours : str
        What was found, with its standard error or interval where it has one.
    met : bool or None
        None where there is no mark.
    peer : str
        The same of a peer in the same run, by name; empty where there is none.
    """

    what: str
    mark: str
    ours: str
    met: bool | None = None
    peer: str = ""


def print_marks(title: str, marks: Iterable[Mark]) -> None:
    """Print the table as Markdown, so that it can be pasted as it is."""
    print(f"\n### {title}\n\n| what | mark | ours | | peers of the same run |\n|---|---|---|---|---|")
    for mark in marks:
        verdict = {None: "", True: "met", False: "**missed**"}[mark.met]
        print(f"| {mark.what} | {mark.mark} | {mark.ours} | {verdict} | {mark.peer} |", flush=True)
