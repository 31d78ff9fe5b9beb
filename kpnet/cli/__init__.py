"""The `kpnet` command: one file for each subcommand. No other package imports this one."""

from __future__ import annotations

from kpnet.cli.entry import app, main

__all__ = ["app", "main"]
