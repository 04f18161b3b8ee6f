"""`unclip reword`: prompts in another form, or lengthened before drawing (DALL-E 3, sections 3.1, 3.5 and appendix C).

What is written is read by `unclip sample --captions`. Each line keeps the original as `prompt` and what the original
mentions as `mentioned`, so that pictures are judged by what was asked for and not by what was added.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datamodules.rendered.channels import descriptive_text
from datamodules.rendered.reading import read
from datamodules.rendered.scenes import describe, scene_for
from experiments.captioning.captioners import need_transformers
from experiments.console.devices import find_device
from experiments.console.progress import progress
from experiments.sampling.captions import Request, read_requests
from modules.errors import InputError

Reword = Callable[[Request], str]
ARTICLES = ("a", "an")
UNRELATED = "photo"
MAX_TOKENS = 120
INSTRUCTION = (
    "Turn a short prompt for an image generator into one detailed description of the picture, of 15 to 80 words. Keep "
    "all that the prompt says; add how things look, where they are, and what is behind them. Answer with the "
    "description alone.\nPrompt: {prompt}\nDescription:"
)
"""Asks a language model for what DALL-E 3's appendix C asks GPT-4 for."""

FORM_OF: dict[str, Callable[[str], str]] = {
    "leading_space": lambda text: f" {text}",
    "upper_case": str.upper,
    "capital": lambda text: text[:1].upper() + text[1:],
    "full_stop": lambda text: f"{text}.",
    "no_article": lambda text: " ".join(word for word in text.split() if word not in ARTICLES),
    "unrelated_word": lambda text: f"{UNRELATED} {text}",
}
"""Form -> the change; `experiments.captioning.options.FORMS` are its keys."""


def run(options: argparse.Namespace) -> int:
    """Run `unclip reword`; returns the exit code."""
    from eval.files import write_file

    if options.out.suffix != ".jsonl":
        raise InputError(f"--out {options.out}: name a .jsonl file, which `unclip sample --captions` reads")
    requests, _ = read_requests(None, str(options.prompts))
    reword = _way(options)
    lines = [_line(request, reword(request)) for request in progress(requests, "rewording")]
    write_file(options.out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    changed = sum(line["caption"] != line["prompt"] for line in lines)
    print(f"{options.out}: {len(lines)} prompts, {changed} of them changed")
    return 0


def _way(options: argparse.Namespace) -> Reword:
    if options.form:
        return lambda request: FORM_OF[options.form](request.caption)
    if options.lengthen:
        return lambda request: lengthened(request.caption, options.seed * 1_000_003 + request.index)
    return LanguageModel(Path(options.model).expanduser(), find_device(options.device))


def _line(request: Request, caption: str) -> dict[str, Any]:
    known = {**request.known, "prompt": request.known.get("prompt", request.caption)}
    return {"caption": caption, "caption_index": request.index, "sample_index": 0, **known}


def lengthened(prompt: str, seed: int) -> str:
    """The descriptive caption of a scene that the prompt describes; what it leaves open is drawn from `seed`.

    Raises:
        InputError: the prompt names no object of the shapes.
    """
    said = read(prompt).said
    if not 1 <= len(said["objects"]) <= 2:
        raise InputError(
            f"{prompt!r} names {len(said['objects'])} shapes, where --lengthen knows one or two: use --model for others"
        )
    return descriptive_text(describe(scene_for(said, seed)))


@dataclass
class LanguageModel:
    """Lengthens prompts by a causal language model of transformers' in a local folder, greedily; nothing is downloaded.

    Attributes:
        folder: as `save_pretrained` writes it, with its tokeniser; weights as safetensors.
        device: where it computes.

    Raises:
        InputError: transformers is missing, or the folder holds no language model that it reads.
    """

    folder: Path
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise InputError(
                f"--model {self.folder}: no such folder; name one that transformers' save_pretrained wrote"
            )
        transformers = need_transformers()
        safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder, **safe)
            model = transformers.AutoModelForCausalLM.from_pretrained(self.folder, use_safetensors=True, **safe)
        except Exception as error:  # The library raises many of its own.
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"{self.folder}: no language model that transformers reads ({reason})") from error
        self._model = model.eval().requires_grad_(False).to(self.device)

    def __call__(self, request: Request) -> str:
        """The model's description; the prompt itself where it says nothing."""
        text = INSTRUCTION.format(prompt=request.caption)
        if getattr(self._tokenizer, "chat_template", None):
            message = [{"role": "user", "content": text}]
            text = self._tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        inputs = self._tokenizer(text, return_tensors="pt").to(self.device)
        ids = self._model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
        answer = self._tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        lines = [" ".join(line.split()) for line in answer.splitlines() if line.strip()]
        return lines[0] if lines else request.caption
