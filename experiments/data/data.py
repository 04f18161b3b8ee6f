"""`unclip data`: `export` writes real pictures as a sample folder, the floor that every table stands on, and more."""

from __future__ import annotations

import argparse
from importlib import import_module

MODULES = {"export": "export", "check": "check", "download-emoji": "emoji_download"}
"""The commands of `unclip data`, and the file of each in this folder."""


def run(options: argparse.Namespace) -> int:
    """Run `unclip data COMMAND`; returns the exit code."""
    return int(import_module(f"experiments.data.{MODULES[options.command]}").run(options))
