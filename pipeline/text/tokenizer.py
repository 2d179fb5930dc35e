"""A checkpoint's tokenizer, read as transformers reads it: the name of every token id, and the ids of a text."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from qkatlas.pipeline.text.spelling import encoded, is_byte_level, of_bytes, of_pieces, speller

END_OF_TEXT = "<|endoftext|>"

TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
"""A directory with none of these has no tokenizer."""

_PLAIN_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes that change nothing of a byte-level tokenizer.json that names its own special tokens."""

_REMEDY = "save its tokenizer anew with transformers' save_pretrained, or name its tokenizer_class"


class UnreadableTokenizerError(ValueError):
    """A directory has tokenizer files, and nothing here can read them."""


@dataclass(frozen=True)
class TokenNames:
    """What a tokenizer calls its tokens.

    Attributes:
        spellings: exact bytes, by id.
        special: ids of control tokens.
        added: ids of tokens that were added to the vocabulary; the model may have no rows for them.
        doubt: a line on what may be wrong with it, or None.
    """

    spellings: dict[int, bytes]
    special: frozenset[int]
    added: frozenset[int]
    doubt: str | None = None


def read_names(path: Path) -> TokenNames | None:
    """Name every token of a checkpoint directory.

    Of two tokens with one id an added one wins, then the first by its bytes.

    Args:
        path: the directory.

    Returns:
        The names; None where there is no tokenizer.

    Raises:
        UnreadableTokenizerError: if there is one that cannot be read.
        ValueError: if its files give a token an id that is no whole number of 0 or more.
    """
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        return None
    files = {name: _stored(path, name) for name in ("tokenizer.json", "vocab.json", "added_tokens.json")}
    _require_ids(path, files)
    if (names := _self_contained(path, files["tokenizer.json"])) is not None:
        return names
    if files["tokenizer.json"] is None and files["vocab.json"] is not None and not (path / "merges.txt").is_file():
        return _names_of_vocab_json(files["vocab.json"], files["added_tokens.json"] or {})
    return _names_of(open_tokenizer(path), path, files["tokenizer.json"])


def open_tokenizer(path: Path) -> Any:
    """Open a checkpoint's tokenizer as `AutoTokenizer` does, offline and without code of others.

    Args:
        path: the directory, or a GGUF file.

    Returns:
        A transformers tokenizer.

    Raises:
        UnreadableTokenizerError: if neither transformers nor the tokenizers library can read it.
    """
    # Loaded here, for it takes seconds that models with a plain tokenizer need not wait for.
    from transformers import AutoTokenizer, GPT2Config, PreTrainedTokenizerFast

    whole = (path / "tokenizer.json").is_file()  # and needs no class to be read, which the other files do
    folder = path
    given: dict[str, Any] = {}
    if path.is_file():
        folder, given = path.parent, {"gguf_file": path.name}
    elif not whole and not _json(path / "config.json").get("model_type"):
        given = {"config": GPT2Config()}
    with _quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **given)
            if len(tokenizer) > len(tokenizer.get_added_vocab()):
                return tokenizer
            reason = "it holds no vocabulary that its class reads"
        except Exception as error:  # each class raises what it likes, the tokenizers library bare Exception
            reason = _first_line(error)
        try:
            if whole:
                return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_file(str(path / "tokenizer.json")))
        except Exception as error:  # as above
            reason = _first_line(error)
    raise UnreadableTokenizerError(f"tokenizer of {path} cannot be read ({reason}); {_REMEDY}")


def encode(path: Path, text: str) -> list[int]:
    """Token ids of a text as the checkpoint's own tokenizer gives them, without the special tokens that it would add.

    Args:
        path: the checkpoint directory, or a GGUF file.
        text: the text; special tokens that stand in it are read as such.

    Raises:
        ValueError: if the directory has no tokenizer that can be read.
    """
    return encode_each(path, [text], option="--text", remedy="leave --text out")[0]


def encoder(path: Path) -> Callable[[str], list[int]]:
    """What `encode` does, with a tokenizer that is opened once.

    Args:
        path: the checkpoint directory, or a GGUF file, with a tokenizer.

    Raises:
        ValueError: if it has none that can be read.
    """
    tokenizer = open_tokenizer(path)

    def read(text: str) -> list[int]:
        given = tokenizer(text, add_special_tokens=False, truncation=False, padding=False, verbose=False)
        return [int(token_id) for token_id in given["input_ids"]]

    return read


def encode_each(path: Path, texts: Sequence[str], *, option: str, remedy: str) -> list[list[int]]:
    """Token ids of several texts, each by itself; see `encode`.

    Args:
        path: the checkpoint directory, or a GGUF file.
        texts: the texts.
        option: what asks for them, for messages.
        remedy: what to do without a tokenizer.

    Raises:
        ValueError: if the directory has no tokenizer that can be read.
    """
    if not path.is_file() and not any((path / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(f"{option} needs a tokenizer, and {path} has no tokenizer.json; {remedy}")
    tokenizer = open_tokenizer(path)
    settings = {"add_special_tokens": False, "truncation": False, "padding": False, "verbose": False}
    try:
        found = [tokenizer(text, **settings)["input_ids"] for text in texts]
    except Exception as error:  # the tokenizers library raises bare Exception
        raise UnreadableTokenizerError(
            f"tokenizer of {path} cannot read {option} ({_first_line(error)}); {_REMEDY}"
        ) from error
    return [[int(token_id) for token_id in ids] for ids in found]


def _stored(path: Path, name: str) -> dict[str, Any] | None:
    """One of the directory's JSON files; None where there is none."""
    file = path / name
    if not file.is_file():
        return None
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableTokenizerError(
            f"tokenizer of {path} cannot be read ({name}: {_first_line(error)}); {_REMEDY}"
        ) from error
    if not isinstance(stored, dict):
        raise UnreadableTokenizerError(f"tokenizer of {path} cannot be read ({name} is no object); {_REMEDY}")
    return stored


def _json(file: Path) -> dict[str, Any]:
    """A JSON object that is welcome but not needed; empty where it is not to be had."""
    if not file.is_file():  # nor a pipe or a device, which might be read for ever
        return {}
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return stored if isinstance(stored, dict) else {}


def _require_ids(path: Path, files: dict[str, dict[str, Any] | None]) -> None:
    """Check that all ids are whole numbers of 0 or more."""
    for name, stored in files.items():
        if stored is None:
            continue
        entries: list[tuple[Any, Any]] = list(stored.items())
        if name == "tokenizer.json":
            model, added = stored.get("model"), stored.get("added_tokens")
            vocab = model.get("vocab") if isinstance(model, dict) else None
            entries = list(vocab.items()) if isinstance(vocab, dict) else []
            added = added if isinstance(added, list) else []
            entries += [(token.get("content"), token.get("id")) for token in added if isinstance(token, dict)]
        for token, token_id in entries:
            if type(token_id) is not int or token_id < 0:
                raise ValueError(
                    f"{name} of {path} gives token {token!r} the id {json.dumps(token_id)}, and ids are whole numbers "
                    "of 0 or more; use the tokenizer the model was trained with"
                )


def _self_contained(path: Path, stored: dict[str, Any] | None) -> TokenNames | None:
    """Names by a byte-level tokenizer.json that alone says what is special; None where transformers has to be asked."""
    config, special_map = _json(path / "tokenizer_config.json"), _json(path / "special_tokens_map.json")
    model_config = _json(path / "config.json")
    named_class = config.get("tokenizer_class") or model_config.get("tokenizer_class")
    usual = named_class in _PLAIN_CLASSES or (named_class is None and model_config.get("model_type", "gpt2") == "gpt2")
    if stored is None or not usual or not is_byte_level(stored) or (path / "added_tokens.json").is_file():
        return None
    try:
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    except Exception as error:  # the tokenizers library raises bare Exception for every unreadable file
        raise UnreadableTokenizerError(
            f"tokenizer of {path} cannot be read ({_first_line(error)}); {_REMEDY}"
        ) from error
    added = tokenizer.get_added_tokens_decoder()
    special = {token.content for token in added.values() if token.special}
    named = _named_special(config) | _named_special(special_map)
    if named_class not in ("PreTrainedTokenizerFast", "TokenizersBackend"):
        named.add(END_OF_TEXT)  # the class has it, whatever the files say
    if not named <= special or (
        "added_tokens_decoder" in config and not _is_same(config["added_tokens_decoder"], added)
    ):
        return None
    ids = tokenizer.get_vocab(with_added_tokens=True)
    names = _in_order(ids, {token_id: token.content for token_id, token in added.items()}, of_bytes)
    return TokenNames(names, frozenset(i for i, token in added.items() if token.special), frozenset(added))


def _named_special(config: dict[str, Any]) -> set[str]:
    """Texts of the tokens that a special_tokens_map.json or tokenizer_config.json names by their purpose."""
    named = [value for key, value in config.items() if key.endswith("_token")]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(key) or []
        named += more.values() if isinstance(more, dict) else more if isinstance(more, list) else [more]
    texts = [value.get("content") if isinstance(value, dict) else value for value in named]
    return {text for text in texts if isinstance(text, str)}


def _is_same(listed: Any, added: dict[int, Any]) -> bool:
    """Whether tokenizer_config.json lists the added tokens that tokenizer.json has."""
    if not isinstance(listed, dict):
        return False
    tokens = {str(i): (token.content, token.special) for i, token in added.items()}
    return all(
        isinstance(token, dict) and tokens.get(i) == (token.get("content"), token.get("special"))
        for i, token in listed.items()
    )


def _names_of_vocab_json(ids: dict[str, int], more: dict[str, int]) -> TokenNames:
    """Names by a byte-level vocab.json without merges, which spells tokens and cuts no text."""
    added = {token_id: token for token, token_id in more.items()}
    special = {ids[END_OF_TEXT]} if END_OF_TEXT in ids else set()
    added |= dict.fromkeys(special, END_OF_TEXT)
    return TokenNames(_in_order({**ids, **more}, added, of_bytes), frozenset(special), frozenset(added))


def _names_of(tokenizer: Any, path: Path, stored: dict[str, Any] | None) -> TokenNames:
    """Names by a transformers tokenizer, spelled by its own decoding."""
    added = {int(token_id): token for token_id, token in tokenizer.added_tokens_decoder.items()}
    special = {token_id for token_id in tokenizer.all_special_ids if token_id is not None}
    special |= {token_id for token_id, token in added.items() if token.special}
    texts = {token_id: token.content for token_id, token in added.items()}
    backend, doubt = getattr(tokenizer, "backend_tokenizer", None), None
    if backend is None:
        spell: Callable[[str], bytes] = of_pieces({"decoder": {"type": "Metaspace"}})
        return TokenNames(_in_order(tokenizer.get_vocab(), texts, spell), frozenset(special), frozenset(added))
    ids, layout = tokenizer.get_vocab(), json.loads(backend.to_str())
    if stored is not None and is_byte_level(layout) and not is_byte_level(stored):
        # A class that the file was not made for: its ids are what the model gets, the file still says what they mean.
        backend = Tokenizer.from_file(str(path / "tokenizer.json"))
        layout = stored
        doubt = (
            f"tokenizer.json of {path} is not byte-level, but transformers reads texts with it as "
            f"{type(tokenizer).__name__}; name its tokenizer_class in tokenizer_config.json"
        )
    return TokenNames(_in_order(ids, texts, speller(layout, backend)), frozenset(special), frozenset(added), doubt)


def _in_order(ids: dict[str, int], added: dict[int, str], spell: Callable[[str], bytes]) -> dict[int, bytes]:
    """Bytes by id; added tokens are stored as plain text, all others as the tokenizer spells them."""
    names: dict[int, bytes] = {}
    for token in sorted(ids, key=encoded):
        if ids[token] not in added:
            names.setdefault(ids[token], spell(token))
    return names | {token_id: encoded(text) for token_id, text in added.items()}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps transformers' own remarks on a tokenizer off the terminal."""
    from transformers.utils.logging import get_verbosity, set_verbosity

    before = get_verbosity()
    set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        set_verbosity(before)
