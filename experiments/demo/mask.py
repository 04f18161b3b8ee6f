"""The painted part of a picture, as a mask."""

from __future__ import annotations

from PIL import Image


def mask_of(drawn: dict[str, object] | None) -> tuple[Image.Image | None, Image.Image | None]:
    """(picture, mask) of what gradio's ImageEditor gives: white where something was painted."""
    if not drawn or not isinstance(drawn.get("background"), Image.Image):
        return None, None
    background = drawn["background"]
    assert isinstance(background, Image.Image)
    mask = Image.new("L", background.size)
    layers = drawn.get("layers")
    for layer in layers if isinstance(layers, list) else []:
        painted = layer.convert("RGBA").getchannel("A").point(lambda alpha: 255 if alpha else 0)
        mask.paste(255, mask=painted)
    return background.convert("RGB"), mask
