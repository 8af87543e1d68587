"""The commands that look after an installation: migrate, backup, restore, retention, exporter.

Belongs here: options, exit codes, and how results are printed. What each does is in `resources`.
"""

from __future__ import annotations

from collections.abc import Sequence

import click

COMMANDS: Sequence[click.Command] = ()
