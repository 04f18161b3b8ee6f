"""`unclip coco`: a COCO folder as the captions and real images of the zero-shot protocol."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from eval.protocol import PROTOCOL_FILE, CaptionProtocol
from eval.samples.coco import CAPTIONS, REFERENCE, export


def run(options: argparse.Namespace) -> int:
    """Run `unclip coco`; returns the exit code."""
    protocol = CaptionProtocol.load(options.protocol)
    out = Path(options.out)
    folder = export(Path(options.annotations), Path(options.images), out, protocol, options.overwrite)
    digest = json.loads((out / PROTOCOL_FILE).read_text(encoding="utf-8"))["digest"]
    print(f"{out / CAPTIONS}: {protocol.captions} captions (protocol {protocol.name} {digest})")
    print(f"{out / REFERENCE}: {len(folder)} real images of {protocol.size} px")
    return 0
