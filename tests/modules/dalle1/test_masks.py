"""Each mask against a picture of it, drawn by hand: a row of text is a query's view of a 4 x 4 grid (figure 11)."""

from __future__ import annotations

import pytest
import torch

from modules.networks.dalle1.masks import MASKS, image_mask, layer_masks, sequence_mask, visible_places

# What the query Q sees: itself and #. The grid is 4 x 4, in raster order.
PICTURES = {
    ("row", 9): """
        ....
        .###
        #Q..
        ....""",
    ("row", 2): """
        ##Q.
        ....
        ....
        ....""",
    ("column", 9): """
        .#..
        .#..
        .Q..
        ....""",
    ("column", 15): """
        ...#
        ...#
        ...#
        ...Q""",
    ("convolutional", 9): """
        ....
        ###.
        #Q..
        ....""",
    ("convolutional", 12): """
        ##.#
        ....
        ##.#
        Q...""",
    ("convolutional", 11): """
        ....
        #.##
        #.#Q
        ....""",
    ("raster_convolutional", 9): """
        ....
        ###.
        #Q..
        ....""",
    ("raster_convolutional", 12): """
        ....
        ...#
        ##.#
        Q...""",
    ("raster_convolutional", 11): """
        ....
        ..##
        #.#Q
        ....""",
    ("dense", 6): """
        ####
        ##Q.
        ....
        ....""",
}


@pytest.mark.parametrize(("name", "query"), PICTURES, ids=[f"{name}-{query}" for name, query in PICTURES])
def test_a_query_sees_what_the_picture_shows(name, query):
    picture = "".join(PICTURES[name, query].split())
    assert picture.index("Q") == query
    expected = torch.tensor([mark in "Q#" for mark in picture])
    assert image_mask(name, 4, 3)[query].tolist() == expected.tolist()


@pytest.mark.parametrize("name", MASKS)
def test_nothing_that_follows_is_seen_and_every_token_sees_itself(name):
    mask = image_mask(name, 6, 3)
    assert not mask.triu(1).any() and mask.diagonal().all()


def test_a_row_is_the_previous_tokens_up_to_the_one_straight_above():
    """32 tokens and itself at the paper's width (appendix B.1); 5 in figure 11, whose grid is 4 wide."""
    assert image_mask("row", 32)[500].sum() == 33
    assert image_mask("row", 4)[9].sum() == 5


@pytest.mark.parametrize("name", ["convolutional", "raster_convolutional"])
def test_the_papers_window_reaches_five_places(name):
    mask = image_mask(name, 32, 11)
    seen = mask[16 * 32 + 16].nonzero()[:, 0]
    assert len(seen) == 5 * 11 + 6
    assert (seen.min().item(), seen.max().item()) == (11 * 32 + 11, 16 * 32 + 16)


def test_a_window_in_raster_order_is_the_same_for_every_token():
    """Like the row mask, and unlike a torus: a band of the matrix, wherever the token stands (figure 11 d)."""
    mask = image_mask("raster_convolutional", 6, 3)
    for query in range(1, 36):
        assert torch.equal(mask[query, 1 : query + 1], mask[query - 1, :query])
    assert not torch.equal(image_mask("convolutional", 6, 3)[12, 1:13], image_mask("convolutional", 6, 3)[11, :12])


def test_the_order_of_layers_is_the_papers():
    order = layer_masks(64)
    assert [k + 1 for k, name in enumerate(order) if name == "column"] == list(range(2, 64, 4))
    assert order[63] == "convolutional" and order.count("row") == 47
    assert layer_masks(5, "raster_convolutional")[3:] == ["row", "raster_convolutional"]
    assert layer_masks(5) == ["row", "column", "row", "row", "convolutional"]


def test_text_is_causal_and_images_see_all_of_it():
    mask = sequence_mask("column", 3, 2, 11, torch.device("cpu"))
    assert mask.int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 1, 0, 0],
        [1, 1, 1, 1, 0, 1, 0],
        [1, 1, 1, 0, 1, 0, 1],
    ]
    assert visible_places("column", 3, 2, 11, torch.device("cpu"))[3].tolist() == [0, 1, 2, 4, 6]


def test_what_there_is_not_is_refused():
    with pytest.raises(ValueError, match="odd"):
        image_mask("convolutional", 4, 4)
    with pytest.raises(ValueError, match="no mask"):
        image_mask("diagonal", 4)  # type: ignore[arg-type]
