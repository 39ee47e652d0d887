"""The tokens that a Hugging Face folder adds to its model's words, whichever file they stand in.

transformers reads them from three files: `added_tokens` of `tokenizer.json`, `added_tokens_decoder`
of `tokenizer_config.json`, and `added_tokens.json`, which older versions wrote. A token that stands
in one of them alone has a trained row all the same. The library `tokenizers` counts ids on by
itself and passes over those that are stated, so that each is compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
ADDED = "added_tokens.json"
SPECIAL = "special_tokens_map.json"
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_MAX_DIGITS = 10


@dataclasses.dataclass(frozen=True)
class StatedToken:
    """A token as one file states it.

    Attributes:
        where: file and field.
        content: its spelling.
        token: its id.
        flags: what `tokenizers.AddedToken` takes; empty where the file says nothing.
    """

    where: str
    content: str
    token: int
    flags: Mapping[str, bool]


def stated_tokens(folder: Path, values: Mapping[str, Mapping[str, Any]]) -> list[StatedToken]:
    """Returns every token that a folder's files add, in the order of the files.

    Args:
        folder: named in errors.
        values: by name of the file, the object that it holds; empty where there is no such file.

    Raises:
        ValueError: an entry without a spelling or an id, or two that contradict each other: one
            token with two ids, or one id of two tokens.
    """
    stated = [
        *_list_entries(folder / TOKENIZER, values[TOKENIZER].get("added_tokens")),
        *_decoder_entries(folder / CONFIG, values[CONFIG].get("added_tokens_decoder")),
        *_plain_entries(folder / ADDED, values[ADDED]),
    ]
    by_content: dict[str, StatedToken] = {}
    by_token: dict[int, StatedToken] = {}
    for entry in stated:
        other = by_content.setdefault(entry.content, entry)
        if other.token != entry.token:
            raise ValueError(
                f"{entry.where}: token {entry.content!r} has the id {entry.token}, but "
                f"{other.token} in {other.where}: both must state the id of the row that was "
                "trained for it"
            )
        other = by_token.setdefault(entry.token, entry)
        if other.content != entry.content:
            raise ValueError(
                f"{entry.where}: the id {entry.token} is that of {entry.content!r}, but of "
                f"{other.content!r} in {other.where}: each token must have an id of its own"
            )
    return stated


def add_stated(
    tokenizer: Tokenizer, folder: Path, values: Mapping[str, Mapping[str, Any]], make_token: Any
) -> None:
    """Gives a tokenizer all tokens that its folder's files add, with the ids that they state.

    As in transformers, tokens come in the order of their ids, and `tokenizer_config.json` decides
    how one is matched.

    Args:
        tokenizer: as `tokenizer.json` describes it; changed in place.
        folder: named in errors.
        values: as for `stated_tokens`; special_tokens_map.json as well.
        make_token: `tokenizers.AddedToken`.

    Raises:
        ValueError: as `stated_tokens`; or an id that the tokenizer cannot give: it is another
            token's, or does not follow the ids before it.
    """
    stated = stated_tokens(folder, values)
    _check_own(tokenizer, folder, stated)
    chosen: dict[int, StatedToken] = {}
    for entry in stated:
        # Where a file says nothing of how a token is matched, the one before it decides.
        if entry.flags or entry.token not in chosen:
            chosen[entry.token] = entry
    special = special_tokens(folder, values)
    there = {repr(token) for token in tokenizer.get_added_tokens_decoder().values()}
    tokens = []
    for _, entry in sorted(chosen.items()):
        is_special = entry.flags.get("special", False) or entry.content in special
        flags = {"normalized": not is_special} | dict(entry.flags)
        if repr(make_token(entry.content, **flags)) not in there:
            tokens.append(make_token(entry.content, **flags | {"special": is_special}))
    tokenizer.add_tokens(tokens)
    for entry in stated:
        _check_id(tokenizer, entry)


def add_special(
    tokenizer: Tokenizer, folder: Path, values: Mapping[str, Mapping[str, Any]], make_token: Any
) -> None:
    """Gives special tokens that no file states an id of the next ids, as transformers does.

    Args:
        tokenizer: what `add_stated` made; changed in place.
        folder: as for `add_stated`.
        values: as for `add_stated`.
        make_token: as for `add_stated`.

    Raises:
        ValueError: a special token's name is not text.
    """
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    tokenizer.add_tokens(
        [
            make_token(name, special=True, normalized=False)
            for name in special_tokens(folder, values)
            if name not in added
        ]
    )


def special_tokens(folder: Path, values: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the special tokens' spellings, in the order in which transformers adds them.

    Raises:
        ValueError: a name is not text.
    """
    found: dict[str, None] = {}
    for role in ROLES:
        for file in naming_files(values):
            value = values[file].get(f"{role}_token")
            if value is not None:
                found[_spelling(folder / file, f"{role}_token", value)] = None
    for file in (CONFIG, SPECIAL):
        for field in _LISTS:
            names = values[file].get(field) or []
            if isinstance(names, Mapping):  # by a role of the model's own
                names = list(names.values())
            if not isinstance(names, list):
                raise ValueError(f"{folder / file}: {field} is {names!r}: must be a list of tokens")
            for name in names:
                found[_spelling(folder / file, field, name)] = None
    return list(found)


def naming_files(values: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """Returns which file decides on special tokens, and which one where that is silent.

    As in transformers: the older `special_tokens_map.json`, unless `tokenizer_config.json` is new
    enough to have an `added_tokens_decoder`.
    """
    return (CONFIG, SPECIAL) if "added_tokens_decoder" in values[CONFIG] else (SPECIAL, CONFIG)


def _spelling(path: Path, field: str, value: Any) -> str:
    spelling = value.get("content") if isinstance(value, Mapping) else value
    if not isinstance(spelling, str) or not spelling:
        raise ValueError(f"{path}: {field} is {value!r}: it must be a token of {TOKENIZER}")
    return spelling


def _list_entries(path: Path, entries: Any) -> Iterator[StatedToken]:
    if not isinstance(entries or [], list):
        raise ValueError(f"{path}: added_tokens is a {type(entries).__name__}; expected a list")
    for number, entry in enumerate(entries or []):
        where = f"{path}: added_tokens[{number}]"
        yield _entry(where, entry, entry.get("id") if isinstance(entry, Mapping) else None)


def _decoder_entries(path: Path, entries: Any) -> Iterator[StatedToken]:
    if not isinstance(entries or {}, Mapping):
        raise ValueError(
            f"{path}: added_tokens_decoder is a {type(entries).__name__}; expected an object, "
            "tokens by their ids"
        )
    for name, entry in (entries or {}).items():
        is_id = name.isascii() and name.isdecimal() and len(name) <= _MAX_DIGITS
        token = int(name) if is_id else name
        yield _entry(f"{path}: added_tokens_decoder[{name[:20]!r}]", entry, token)


def _plain_entries(path: Path, entries: Mapping[str, Any]) -> Iterator[StatedToken]:
    for content, token in entries.items():
        yield _entry(f"{path}: {content[:40]!r}", {"content": content}, token)


def _entry(where: str, entry: Any, token: Any) -> StatedToken:
    content = entry.get("content") if isinstance(entry, Mapping) else None
    if not isinstance(content, str) or not content:
        raise ValueError(f"{where} is {entry!r:.100}: needs the token's spelling as content")
    if type(token) is not int or not 0 <= token < 2**31:
        raise ValueError(f"{where}: the id of {content!r} is {token!r:.40}: must be a number >= 0")
    flags = {name: entry[name] for name in _FLAGS if name in entry}
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ValueError(f"{where}: {name} is {value!r:.40}: must be true or false")
    return StatedToken(where, content, token, flags)


def _check_own(tokenizer: Tokenizer, folder: Path, stated: list[StatedToken]) -> None:
    """Checks the ids of `tokenizer.json` itself: each one token's, and none another one stated."""
    own: dict[int, str] = {}
    for content, token in tokenizer.get_vocab(with_added_tokens=True).items():
        if (other := own.setdefault(token, content)) != content:
            first, second = sorted((other, content))
            raise ValueError(
                f"{folder / TOKENIZER}: the id {token} is that of {first!r} and of {second!r}: "
                "each token must have an id of its own"
            )
    for entry in stated:
        _check_id(tokenizer, entry, may_lack=True)
        if (other := own.get(entry.token)) not in (None, entry.content):
            raise ValueError(
                f"{entry.where}: the id {entry.token} is that of {entry.content!r}, but of "
                f"{other!r} in {folder / TOKENIZER}: each token must have an id of its own"
            )


def _check_id(tokenizer: Tokenizer, entry: StatedToken, *, may_lack: bool = False) -> None:
    got = tokenizer.token_to_id(entry.content)
    if got != entry.token and not (may_lack and got is None):
        raise ValueError(
            f"{entry.where}: token {entry.content!r} has the id {entry.token}, but {got} by "
            f"{TOKENIZER}, where ids follow one another without gaps: the files must agree on "
            "the row that was trained for it"
        )
