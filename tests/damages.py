"""Ways to damage a file, shared by the tests that ask what a reader makes of it."""

import contextlib
import os

import numpy as np

DEEP = b"[" * 100_000
LONG = b'{"a": ' + b"9" * 5000 + b"}"
OTHER_JSON = (
    b"[]",
    b"{}",
    b"null",
    b"3",
    b'"text"',
    b"[[1]]",
    DEEP,
    LONG,
    b"\xef\xbb\xbf{",
    b"{}{}",
)
OTHER_VALUES = (None, "x", -1, 2**70, 0.5, [], {}, [[]], [None], {"x": None}, True)


@contextlib.contextmanager
def damaged(path, content):
    """Puts another file in the place of one, for as long as the block."""
    kept = path.with_name(f".{path.name}.kept")
    os.replace(path, kept)
    try:
        path.write_bytes(content)
        yield
    finally:
        os.replace(kept, path)


def refused(message, path):
    return message is not None and path.name in message and "\n" not in message


def damages(name, data):
    rng = np.random.default_rng(sum(map(ord, name)))
    for place in rng.integers(0, len(data), 3):
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(8))
        yield f"bit flipped in byte {place}", bytes(flipped)
    yield "cut", data[: len(data) // 2]
    yield "a byte less", data[:-1]
    yield "empty", b""
    if name.endswith((".json", ".jsonl")) and "checkpoints" not in name:
        for other in OTHER_JSON:
            yield f"{other[:12]!r}", other


def variants(value):
    """The object with one of its fields, at any depth of two, being something else."""
    for name, entry in value.items():
        yield name, {other: e for other, e in value.items() if other != name}
        for other in OTHER_VALUES:
            yield f"{name}={other!r}", value | {name: other}
        if isinstance(entry, dict):
            for inner in list(entry)[:4]:
                for other in OTHER_VALUES:
                    yield f"{name}.{inner}={other!r}", value | {name: entry | {inner: other}}
