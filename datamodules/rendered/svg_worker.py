"""A process of its own that renders SVGs: a drawing that crashes the renderer ends this process, not the training.

It reads (length, side) and an SVG from stdin, and writes (length) and a PNG, or (0) and one line, to stdout. It imports
nothing of this project: it is started by its path.
"""

from __future__ import annotations

import os
import resource
import struct
import sys

MEMORY = 2**31
"""Bytes of address space: a drawing of 1,024 pixels takes 50 MB."""


def main() -> None:
    """Render until stdin ends."""
    import resvg_py

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answer, sys.stdout = sys.stdout.buffer, sys.stderr
    os.chdir("/")
    while len(head := sys.stdin.buffer.read(8)) == 8:
        length, side = struct.unpack("<II", head)
        svg = sys.stdin.buffer.read(length).decode("utf-8")
        try:
            drawn = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, background="white")
            png, said = bytes(drawn), b""
        except Exception as error:
            png, said = b"", " ".join(str(error).split())[:300].encode()
        answer.write(struct.pack("<II", len(png), len(said)) + png + said)
        answer.flush()


if __name__ == "__main__":
    main()
