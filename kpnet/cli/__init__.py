"""The `kpnet` command, a file for each subcommand. Nothing imports it."""

from __future__ import annotations

from kpnet.cli.entry import app, main

__all__ = ["app", "main"]
