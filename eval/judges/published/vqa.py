"""VQAScore (2024, Lin et al.): how sure a vision-language model is that a picture shows its caption."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from eval.errors import InputError
from eval.judges.published.image_reward import INSTALL

QUESTION, ANSWER = 'Does this figure show "{}"? Please answer yes or no.', "Yes"


class VQAScore:
    """Scores (N, 1) in [0, 1] of pictures and their captions, by any model that transformers reads from a folder.

    Of a model that goes on with its input it is the probability of the first token of "Yes". Of one with an encoder and
    a decoder (as CLIP-FlanT5, InstructBLIP) it is the geometric mean over the tokens of the answer and its end, as its
    authors have it. Pictures are asked about one by one, so that no padding changes a number.

    Args:
        folder: of `save_pretrained`, with safetensors weights; code that it brings along is not run.
        device: where it computes; on an accelerator with weights as the folder has them, which the name then says.

    Raises:
        InputError: no such folder, a model of another kind, or transformers is not installed.
    """

    resizing = "the model's own processor"

    def __init__(self, folder: Path, device: str | torch.device = "cpu") -> None:
        try:
            from transformers import AutoModelForImageTextToText, AutoProcessor
        except ImportError:
            raise InputError(INSTALL) from None
        self.device = torch.device(device)
        own = {"local_files_only": True, "trust_remote_code": False}
        dtype = torch.float32 if self.device.type == "cpu" else "auto"
        try:
            self.processor = AutoProcessor.from_pretrained(folder, **own)
            model = AutoModelForImageTextToText.from_pretrained(folder, use_safetensors=True, dtype=dtype, **own)
        except Exception as error:  # transformers raises many kinds
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{folder} holds no vision-language model that transformers reads ({reason})") from error
        self.model: Any = model.eval().requires_grad_(False).to(self.device)
        self.encodes = any(config.is_encoder_decoder for config in (model.config, model.config.get_text_config()))
        self.image_token = self._image_token()
        kind = "" if model.dtype == torch.float32 else f" {str(model.dtype).removeprefix('torch.')}"
        self.name = f"VQAScore {folder.resolve().name} {digest_of(folder)}{kind}"

    @torch.inference_mode()
    def score(self, images: Tensor, records: Sequence[Mapping[str, Any]]) -> Tensor:
        """(N, 1) of uint8 (N, 3, H, W) and manifest lines with captions."""
        pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        found = [self._one(picture, str(record["caption"])) for picture, record in zip(pictures, records, strict=True)]
        return torch.tensor(found)[:, None]

    def _one(self, picture: Image.Image, caption: str) -> float:
        inputs = self.processor(images=picture, text=self.prompt(QUESTION.format(caption)), return_tensors="pt")
        given = {key: self._moved(value) for key, value in inputs.items() if isinstance(value, Tensor)}
        tokenizer = self.processor.tokenizer
        if self.encodes:
            labels = tokenizer(ANSWER, return_tensors="pt").input_ids.to(self.device)
            return float(torch.exp(-self.model(**given, labels=labels).loss.float()))
        answer = tokenizer(ANSWER, add_special_tokens=False).input_ids[0]
        logits = self.model(**given).logits[0, -1].float()
        return float(logits.softmax(-1)[answer])

    def _moved(self, value: Tensor) -> Tensor:
        return value.to(self.device, self.model.dtype if value.is_floating_point() else value.dtype)

    def prompt(self, question: str) -> str:
        """The question with the picture before it, in the model's own form where it has one."""
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            text = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            return str(text)
        return f"{self.image_token}\n{question}" if self.image_token else question

    def _image_token(self) -> str | None:
        """What stands for the picture in a text; None where the processor puts it there itself, as BLIP-2's does."""
        token = getattr(self.processor, "image_token", None)
        if token is None:
            return None
        number = self.processor.tokenizer.convert_tokens_to_ids(str(token))
        try:
            inputs = self.processor(images=Image.new("RGB", (64, 64)), text=ANSWER, return_tensors="pt")
        except Exception:  # A processor that misses the token raises a kind of its own.
            return str(token)
        return None if number in inputs["input_ids"][0].tolist() else str(token)


def digest_of(folder: Path) -> str:
    """8 hexadecimal digits of all files of a folder that a model is read from."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (".json", ".safetensors", ".jinja", ".model", ".txt"):
            digest.update(path.name.encode())
            with path.open("rb") as file:
                while block := file.read(2**24):
                    digest.update(block)
    return digest.hexdigest()[:8]
