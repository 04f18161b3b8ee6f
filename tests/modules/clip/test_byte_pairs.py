"""GPT-2's byte pairs against the tokenizers library, on merges that are learned here."""

from __future__ import annotations

import gzip

import pytest
import torch

from modules.clip.byte_pairs import BytePairs, find_merges
from modules.clip.caption_tokens import tokenizer_of
from modules.errors import InputError

TEXTS = [
    "a corgi wearing a red bow tie",
    "It's 12 o'clock, they'd said: THEY'LL be 1,234 of us!",
    "  two   spaces, a tab\tand \n a line ",
    "café, 漢字 and \U0001f600 emoji",
    "",
]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """The library's tokeniser, trained on the texts, and its file of merges."""
    library = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("pairs")
    from open_clip.tokenizer import bytes_to_unicode

    trained = library.ByteLevelBPETokenizer(lowercase=True)
    trained.train_from_iterator(TEXTS * 5, vocab_size=330, show_progress=False)
    trained.save_model(str(folder))
    pairs = [tuple(line.split()) for line in (folder / "merges.txt").read_text().splitlines()[1:]]
    pieces = [*bytes_to_unicode().values(), *("".join(pair) for pair in pairs)]  # The order of GPT-2's own file.
    vocabulary = {piece: k for k, piece in enumerate(pieces)}
    oracle = library.ByteLevelBPETokenizer(vocab=vocabulary, merges=pairs, lowercase=True)
    return folder, oracle, len(pieces)


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_the_librarys_and_one_higher(learned, text):
    folder, oracle, size = learned
    merges = find_merges(folder)
    tokens = BytePairs(merges, 128)([text])[0]
    wanted = [token + 1 for token in oracle.encode(text).ids]
    assert tokens[: len(wanted)].tolist() == wanted and not tokens[len(wanted) :].any()
    assert BytePairs(merges, 128).vocab_size == size + 2
    assert tokenizer_of("gpt2", 128, merges)[1] == size + 2


def test_a_packed_file_is_the_same(learned, tmp_path):
    merges = find_merges(learned[0])
    (tmp_path / "vocab.bpe.gz").write_bytes(gzip.compress(merges))
    assert find_merges(tmp_path) == merges
    (tmp_path / "vocab.bpe.gz").write_bytes(gzip.compress(bytes(2**23 + 2)))
    with pytest.raises(InputError, match="has over 8,388,608 bytes"):
        find_merges(tmp_path)
    assert find_merges(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"a b c\n", "two pieces a line, found 'a b c'"), (b"", "found 'nothing'"), (b"\xff\xfe a", "no text in UTF-8")],
)
def test_another_file_is_refused(tmp_path, content, told):
    (tmp_path / "vocab.bpe").write_bytes(content)
    with pytest.raises(InputError, match=told):
        find_merges(tmp_path)


def test_long_captions_and_missing_merges_are_refused(learned):
    pairs = BytePairs(find_merges(learned[0]), 4)
    with pytest.raises(InputError, match="tokens, 4 are read: shorten 'zyxwvu'"):
        pairs(["zyxwvu"])
    assert torch.equal(pairs(["", "a"])[0], torch.zeros(4, dtype=torch.int64))
    with pytest.raises(InputError, match=r"came without them: put https://.*vocab\.bpe beside GLIDE's files"):
        tokenizer_of("gpt2", 4)
