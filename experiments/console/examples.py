"""The examples of every `unclip COMMAND --help`, and the groups of its options."""

from __future__ import annotations

EXAMPLES: dict[str, tuple[str, ...]] = {
    "data export": ("unclip data export --config experiments/quickstart/data.yaml --split test --out runs/real",),
    "data check": (
        "unclip data check /data/birds --out birds.html",
        "unclip data check my.yaml --clip ViT-L-14 --limit 1000",
    ),
    "data download-emoji": ("unclip data download-emoji --out data/emoji --sets noto twemoji",),
    "new": (
        "unclip new birds --data /data/birds",
        "unclip new birds64 --data /data/birds --size 64 --clip ViT-B-32:/weights/vit_b_32.safetensors",
    ),
    "embed": (
        "unclip embed --config experiments/quickstart/data.yaml --clip runs/quickstart/clip/export "
        "--out runs/quickstart/embeddings",
        "unclip embed /data/coco --clip ViT-L-14 --pretrained openai --out /data/coco-vit-l --devices 8",
    ),
    "caption": ("unclip caption /data/birds --captioner runs/dalle3/captioner --out /data/birds-captions",),
    "caption-report": ("unclip caption-report experiments/dalle3/data.yaml --out captions",),
    "study": ("unclip study runs/dalle3 --bootstrap 200",),
    "probe": (
        "unclip probe --config experiments/quickstart/data.yaml --embeddings runs/quickstart/embeddings "
        "--out runs/quickstart/probe.json",
    ),
    "complete": ("unclip complete circles/00000.png --caption 'a red circle' --run runs/quickstart --out completed",),
    "codes": ("unclip codes --run runs/quickstart --out codes",),
    "blur": ("unclip blur runs/quickstart/samples/dalle --run runs/quickstart",),
    "dalle1-table": ("unclip dalle1-table",),
    "rank": ("unclip rank runs/quickstart/embeddings --out rank.json",),
    "sample": (
        'unclip sample "a small red circle" -n 4 --out circles',
        "unclip sample --captions captions.txt --run runs/quickstart --condition ar_prior --out pictures",
        'unclip sample "a red circle" --out fast --set decoder.steps=2 --set prior.candidates=4',
    ),
    "mix": ("unclip mix cat.png dog.png --captions 'a red circle' --weights 0.4 0.4 0.2 --out mixed",),
    "import": (
        "unclip import karlo /weights/karlo --out runs/karlo --dtype bfloat16",
        "unclip import glide /weights/glide --out runs/glide",
    ),
    "reword": ("unclip reword runs/dalle3/prompts/short/manifest.jsonl --lengthen --out longer.jsonl",),
    "demo": ("unclip demo", "unclip demo --run runs/birds --port 8000"),
    "invert": ("unclip invert cat.png --out cat.safetensors --figure cat",),
    "reconstruct": ("unclip reconstruct cat.png dog.png --out again --sweep-steps 10 50",),
    "variations": ("unclip variations cat.png dog.png --out variations --eta 0 0.5 1",),
    "interpolate": (
        "unclip interpolate cat.png dog.png --out between --count 9",
        "unclip interpolate --captions 'a red circle' 'a blue square' --out words",
    ),
    "text-diff": (
        "unclip text-diff circle.png --base 'a red circle' --target 'a blue circle' --out blue",
        "unclip text-diff --table 64 --choose 64 --run runs/quickstart --out edits",
    ),
    "inpaint": (
        "unclip inpaint circle.png --mask hole.png --caption 'a red circle' --out filled",
        "unclip inpaint --mask right -n 4 --run runs/quickstart --out halves",
    ),
    "pca": ("unclip pca --run runs/quickstart --components 2 4 8 16 --out components",),
    "typographic": ("unclip typographic apple.png --text ipod --captions 'an apple' 'an ipod' --out words",),
    "conditioning-grid": ("unclip conditioning-grid 'a red circle' --columns 4 --out conditions",),
    "guidance-grid": ("unclip guidance-grid 'a red circle' --scales 1 2 4 --out guidance",),
    "gallery": ("unclip gallery runs/quickstart --only variations pca",),
    "evaluate": (
        "unclip evaluate runs/quickstart/samples/ar_prior --reference runs/quickstart/samples/reference",
        "unclip evaluate pictures --reference runs/coco/reference --inception inception-2015-12-05.pt",
        "unclip evaluate pictures --captions prompts.csv --metric hpsv2.1 --metric vqascore --weights weights",
    ),
    "coco": ("unclip coco --annotations annotations/captions_val2014.json --images val2014 --out runs/coco",),
    "judge": ("unclip judge aesthetic --csv AVA.txt --images ava --clip ViT-L-14:openai --out aesthetic.json",),
    "sweep": ("unclip sweep experiments/protocols/guidance.yaml --run runs/quickstart --captions 64",),
    "reproduce": (
        "unclip reproduce quickstart",
        "unclip reproduce birds/suite.yaml --dry-run",
        "unclip reproduce quickstart --only decoder --run runs/mine",
        "unclip reproduce quickstart --seeds 3",
    ),
    "plan": ("unclip plan experiments/paper/decoder.yaml --devices 8,64 --memory 80",),
    "table3": ("unclip table3 --out table3.txt",),
    "report": ("unclip report runs/quickstart",),
    "tables": ("unclip tables runs/quickstart --out my_tables",),
    "figures": ("unclip figures runs/quickstart",),
    "votes": ("unclip votes runs/quickstart --pairs 100",),
    "export": ("unclip export runs/quickstart --half --out release",),
    "fit": (
        "unclip fit --config experiments/quickstart/clip.yaml",
        "unclip fit --config experiments/quickstart/decoder.yaml --trainer.max_steps 2000 --overwrite",
        "unclip fit --config birds/decoder.yaml --ckpt_path last",
        "unclip fit --config birds/decoder.yaml --init_from runs/quickstart/decoder",
    ),
    "validate": ("unclip validate --config experiments/quickstart/decoder.yaml --ckpt_path last --bound.samples 64",),
    "test": ("unclip test --config experiments/quickstart/decoder.yaml --ckpt_path last",),
    "predict": ("unclip predict --config experiments/quickstart/diffusion_prior.yaml --ckpt_path last",),
}
"""Command -> lines that run as they stand, given the files that they name. A test parses each of them."""

SECTIONS: dict[str, tuple[str, ...]] = {
    "files and folders": (
        "--run", "--out", "--overwrite", "--resume", "--config", "--from", "--latents", "--figure", "--cache",
        "--embeddings", "--save-clip", "--reference", "--real", "--image-size", "--data", "--captions-from",
    ),
    "sampling": (
        "--seed", "--steps", "--guidance", "--size", "--no-upsample", "--condition", "--conditions", "--prior",
        "--prior-guidance", "--prior-steps", "--decoder-guidance", "--decoder-steps", "--decoder-sampler", "--set",
        "--guiding-clip", "--upsampler-steps", "--fixed-point", "--resamples", "--eta", "--theta",
    ),
    "CLIP and judges": (
        "--classifier", "--clip", "--inception", "--network", "--aesthetic", "--preference", "--statistics",
        "--write-statistics", "--bootstrap",
    ),
    "machine": (
        "--device", "--devices", "--strategy", "--batch-size", "--num-workers", "--num-nodes", "--precision",
        "--shard-rows", "--jobs", "--no-fork", "--wait", "--host", "--port",
    ),
}  # fmt: skip
"""Title of a group in a help page -> its options. Others stand under "options", above them."""

FEW = 8
"""A command with at most so many options has no groups."""


def examples_text(prog: str) -> str:
    """'examples:' and the lines of a command, by its name with "unclip" before it; '' for a command without."""
    lines = EXAMPLES.get(prog.removeprefix("unclip "), ())
    return "\n".join(["examples:", *(f"  {line}" for line in lines)]) if lines else ""


def section_of(option: str) -> str:
    """The title of the group of an option."""
    return next((title for title, options in SECTIONS.items() if option in options), "options")
