"""`unclip coco`: a COCO folder as the captions and real images of the zero-shot protocol."""

from __future__ import annotations

import json
from pathlib import Path

from experiments.console.arguments import CommandParser

PROTOCOL = Path(__file__).parents[1] / "protocols" / "coco.yaml"


def main(argv: list[str]) -> int:
    """Runs `unclip coco ...`; returns the exit code."""
    made = CommandParser(prog="unclip coco", description="Prepare a COCO folder for zero-shot evaluation.")
    made.add_argument("--annotations", required=True, help="captions json, as annotations/captions_val2014.json")
    made.add_argument("--images", required=True, help="folder of its images, as val2014")
    made.add_argument("--out", required=True, help="folder to write: captions.jsonl, reference/, protocol.json")
    made.add_argument("--protocol", default=str(PROTOCOL), help="YAML of the protocol (default: zero-shot, 30,000)")
    made.add_argument("--overwrite", action="store_true", help="replace an older export in --out")
    options = made.parse_args(argv)
    from eval.protocol import PROTOCOL_FILE, CaptionProtocol
    from eval.samples.coco import CAPTIONS, REFERENCE, export

    protocol = CaptionProtocol.load(options.protocol)
    out = Path(options.out)
    folder = export(Path(options.annotations), Path(options.images), out, protocol, options.overwrite)
    digest = json.loads((out / PROTOCOL_FILE).read_text(encoding="utf-8"))["digest"]
    print(f"{out / CAPTIONS}: {protocol.captions} captions (protocol {protocol.name} {digest})")
    print(f"{out / REFERENCE}: {len(folder)} real images of {protocol.size} px")
    return 0
