"""How much faster image tokens are drawn with the key/value cache than by evaluating the whole sequence for each.

    python -m benchmarks.dalle1.token_cache [--width 256] [--depth 4] [--grid 32] [--samples 1]

Times are of this process's own CPU, so that other work beside disturbs little. Without the cache a few places are
timed, spread over the picture; their mean stands for all. Weights are random: they cost what trained ones do.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from modules.models.dalle1.token_transformer import TokenTransformerModel
from modules.networks.dalle1.masks import MASKS
from modules.networks.dalle1.token_transformer import TokenTransformerNetwork, float_head

TEXT, PLACES = 256, 12


def seconds(run: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    run()
    return time.process_time() - start


@torch.no_grad()
def compare(network: TokenTransformerNetwork, samples: int) -> tuple[float, float]:
    """Seconds for all tokens of `samples` pictures: with the cache, and without."""
    model, count = TokenTransformerModel(network), network.num_tokens
    text = torch.randint(1, 100, (samples, TEXT), generator=torch.Generator().manual_seed(0))
    with_cache = seconds(lambda: model.sample(text, [torch.Generator().manual_seed(k) for k in range(samples)]))
    tokens = torch.zeros(samples, count, dtype=torch.int64)

    def whole(place: int) -> None:
        x = torch.cat([network.text(text), network.image(tokens[:, :place])], dim=1)
        float_head(network.image_out, network.transformer(x)[:, -1])

    whole(1)
    places = [round((k + 0.5) * count / PLACES) for k in range(PLACES)]
    return with_cache, count / PLACES * sum(seconds(lambda p=place: whole(p)) for place in places)  # type: ignore[misc]


def main() -> None:
    """Print a line for each mask in all layers, and one for the paper's order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("width", 256), ("depth", 4), ("grid", 32), ("samples", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("the paper's", *MASKS):
        masks = "paper" if name == "the paper's" else [name] * options.depth
        sizes = (100, TEXT, 512, options.grid, options.width, options.depth, options.width // 64)
        network = TokenTransformerNetwork(*sizes, masks=masks).eval()  # type: ignore[arg-type]
        cached, whole = compare(network, options.samples)
        print(
            f"{name}: {network.num_tokens} tokens of {options.samples}: {cached:.1f} s with the cache, {whole:.0f} s "
            f"without, {whole / cached:.0f} times"
        )


if __name__ == "__main__":
    main()
