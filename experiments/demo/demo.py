"""`unclip demo`: open the page, and draw until Ctrl-C."""

from __future__ import annotations

import argparse
import os
from importlib.util import find_spec

from experiments.console.devices import find_device
from modules.errors import InputError
from modules.shipped.newest import chosen_run

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def run(options: argparse.Namespace) -> int:
    """Run `unclip demo`; returns the exit code after Ctrl-C."""
    if find_spec("gradio") is None:
        raise InputError('the demo needs the package gradio: pip install -e ".[demo]", or pip install gradio')
    if options.port is not None and not 0 < options.port < 65_536:
        raise InputError(f"--port {options.port}: give a number from 1 to 65535")
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    from experiments.demo.page import HEAD, page, theme
    from experiments.demo.studio import Studio

    studio = Studio.open(chosen_run(options.run), find_device(options.device))
    if options.host not in LOOPBACK:
        print(f"unclip: everyone who can reach {options.host} can use this page; it asks for no password")
    try:
        page(studio).launch(
            server_name=options.host, server_port=options.port, theme=theme(), head=HEAD, footer_links=[], quiet=False
        )
    except OSError as error:
        raise InputError(f"the page cannot be opened: {error}; choose another --port") from error
    return 0
