"""Checkpoint directories with small tokenizers of every kind, as Hugging Face directories come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

LINES = ["the red cat and the blue cats are playing", " red  blue\nred blue Zürich 東京", "<mark> note the red"] * 8

TEXTS = (
    "the red cat",
    " red<|endoftext|>blue <mark>cats <|note|> red",
    "Zürich 東京 🙂\n\tred  blue <mark>  playing",
    "red<mark>red <|endoftext|><|endoftext|> <|note|>x",
)

CONFIG = {"model_type": "gpt2", "vocab_size": 1024, "n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 64}


def write(path: Path, **files: Any) -> Path:
    """Write JSON files, or texts as they are, into a directory with a GPT-2 config.json; `__` stands for a dot."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in {"config__json": CONFIG, **files}.items():
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        (path / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return path


def byte_level(size: int = 320) -> Tokenizer:
    """A trained byte-level BPE, as GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def word_piece() -> Tokenizer:
    """A trained WordPiece, as BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def word_level() -> Tokenizer:
    """A trained list of words."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>", "<s>"], show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def unigram() -> Tokenizer:
    """A Unigram model with SentencePiece's spaces."""
    letters = sorted(set("".join(LINES)) - {" ", "\n"})
    words = ["▁", "▁the", "▁red", "▁blue", "▁cat", "red", "blue"]
    pieces = [("<unk>", 0.0), ("<s>", 0.0), *((word, -2.0) for word in words), *((letter, -6.0) for letter in letters)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.add_special_tokens(["<unk>", "<s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def byte_fallback() -> Tokenizer:
    """A BPE of characters with single bytes for the others, as Llama 2's."""
    merges = [("▁", "r"), ("▁r", "e"), ("▁re", "d"), ("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "▁")]
    single = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = sorted(set("▁abcdefghijklmnopqrstuvwxyzü"))
    vocab = ["<unk>", "<s>", "</s>", *single, *letters, *(left + right for left, right in merges)]
    model = models.BPE(
        {token: place for place, token in enumerate(vocab)},
        merges,
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def with_added(tokenizer: Tokenizer, *tokens: AddedToken) -> Tokenizer:
    """The same with further tokens."""
    tokenizer.add_tokens(list(tokens))
    return tokenizer


def vocab_and_merges(tokenizer: Tokenizer) -> dict[str, Any]:
    """What a byte-level BPE is in the two files of older directories."""
    model = json.loads(tokenizer.to_str())["model"]
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]]
    return {"vocab__json": model["vocab"], "merges__txt": "#version: 0.2\n" + "\n".join(merges) + "\n"}


def sentence_piece(path: Path) -> None:
    """Write a trained SentencePiece model of the kind of Llama 2's."""
    import sentencepiece

    with (path / "tokenizer.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(LINES),
            model_writer=file,
            vocab_size=310,
            model_type="bpe",
            byte_fallback=True,
            character_coverage=0.98,
            minloglevel=2,
        )
