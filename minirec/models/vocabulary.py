"""A trained model's vocabulary grown by new tokens, and their rows trained apart from the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Float32, Int

from minirec.models.config import SidDecoderConfig
from minirec.models.layers import AddedParam, named_param
from minirec.models.lora import adapters
from minirec.models.sid_decoder import SidDecoder

NEW_ROWS = ("mean", "random", "codebooks")

type _Values = dict[tuple[str, ...], Array]


def new_rows(
    kind: str,
    old: Float[Array, "V D"],
    codes: Int[np.ndarray, "n 2"],
    *,
    seed: int,
    codebooks: Sequence[Float[np.ndarray, "K Z"]] | None = None,
) -> Float32[np.ndarray, "n D"]:
    """Returns first rows for the tokens of SID codes.

    - "mean": each is the mean of the old rows;
    - "random": drawn from a normal with the old rows' mean and deviation in every dimension;
    - "codebooks": a code's vector of the quantiser, less its level's mean and over its level's
      deviation, goes through a random projection of the level's own; what comes out has the old
      rows' mean and deviation. Codes that are alike so start alike. A code without a vector (a
      level that only tells items of one SID apart) is drawn as in "random".

    Args:
        kind: one of `NEW_ROWS`.
        old: the rows that are trained already.
        codes: each new token's level and code.
        seed: of what is drawn.
        codebooks: by level; needed for "codebooks".

    Raises:
        ValueError: an unknown kind, or one that lacks its codebooks.
    """
    if kind not in NEW_ROWS:
        raise ValueError(f"new_rows={kind!r}: must be one of {', '.join(NEW_ROWS)}")
    mean = fetched(jnp.mean(old, axis=0, dtype=jnp.float32))
    if kind == "mean":
        return np.tile(mean, (len(codes), 1))
    variance = jnp.mean(jnp.square(old.astype(jnp.float32) - mean), axis=0)
    deviation = np.sqrt(fetched(variance))
    random = np.random.default_rng(seed)
    units = random.standard_normal((len(codes), len(mean)), np.float32)
    if kind == "codebooks":
        if codebooks is None:
            raise ValueError("new_rows='codebooks' needs the codebooks that made the SIDs")
        for level, codebook in enumerate(codebooks):
            rows = np.flatnonzero((codes[:, 0] == level) & (codes[:, 1] < len(codebook)))
            vectors = np.asarray(codebook, np.float32)[codes[rows, 1]]
            vectors = vectors - vectors.mean(axis=0) if len(vectors) else vectors
            spread = np.sqrt(np.mean(np.square(vectors))) if len(vectors) else 0.0
            if spread > 0:
                width = vectors.shape[1]
                projection = random.standard_normal((width, len(mean)), np.float32) * width**-0.5
                units[rows] = (vectors / spread) @ projection
    return (mean + deviation * units).astype(np.float32)


def fetched(values: Array) -> np.ndarray:
    """Returns an array on this host, though it may be split over devices of several."""
    if values.is_fully_addressable:
        return np.asarray(values)
    return np.asarray(multihost_utils.process_allgather(values, tiled=True))


def grow(
    model: SidDecoder,
    vocab_size: int,
    new_rows: Float[np.ndarray, "n D"],
    head_rows: Float[np.ndarray, "n D"] | None = None,
) -> SidDecoder:
    """Returns the model with one row a token, the last `n` of which are the new tokens'.

    A published embedding may be longer than its tokenizer: the new tokens take the unused rows
    first, and rows that stay unused are cut, as `resize_token_embeddings(len(tokenizer))` of
    transformers does.

    Args:
        model: the model; it is not changed, and shares what did not have to grow.
        vocab_size: how many tokens the tokenizer has, the new ones included.
        new_rows: the new tokens' embeddings, in the order of the tokens.
        head_rows: their rows of an untied head.

    Raises:
        ValueError: shapes that do not fit, old tokens without a row, or head rows given to a model
            whose head is tied, or missing where it is not.
    """
    V, D = model.embedding.shape
    first = vocab_size - len(new_rows)
    if model.embedding_tail is not None:
        raise ValueError("the model's last rows stand apart; merge them first")
    if not 0 <= first <= V:
        raise ValueError(
            f"vocab_size={vocab_size} less {len(new_rows)} new rows leaves {first} old tokens: "
            f"must lie in [0, {V}], the rows that the model has"
        )
    if (head_rows is None) != (model.head is None):
        how = "untied: head_rows is needed" if head_rows is None else "tied: head_rows must be None"
        raise ValueError(f"the model's head is {how}")
    rows = {"embedding": new_rows} | ({} if head_rows is None else {"head": head_rows})
    grown: _Values = {}
    for name, added in rows.items():
        if added.shape != (len(new_rows), D):
            raise ValueError(f"rows for {name}: shape {added.shape}, must be {(len(new_rows), D)}")
        old = getattr(model, name)[...]
        added = jnp.asarray(added, old.dtype)
        grown[(name,)] = jnp.concatenate([old[:first], added])
    config = dataclasses.replace(model.config, vocab_size=vocab_size)
    return _with_values(model, config, grown)


def split_rows(model: SidDecoder, first: int) -> None:
    """Stores the rows from token `first` on apart, as `AddedParam`: they can be trained alone.

    Gradients and optimizer state are then as large as these rows. They are float32 whatever the
    model is stored in.

    Args:
        model: changed in place; its outputs stay what they were.
        first: the first of the tokens, at least 1.

    Raises:
        ValueError: there is no such token, or the rows stand apart already.
    """
    V = model.embedding.shape[0]
    if model.embedding_tail is not None:
        raise ValueError("the model's last rows stand apart already; merge them first")
    if not 1 <= first < V:
        raise ValueError(f"first={first}: must lie in [1, {V}), the model's tokens")
    for name in ("embedding", "head"):
        param = getattr(model, name)
        if param is not None:
            names = tuple(param.get_metadata()["out_sharding"])
            rows = param[...]
            tail = rows[first:].astype(jnp.float32)
            setattr(model, f"{name}_tail", named_param(tail, names, AddedParam))
            setattr(model, name, named_param(rows[:first], names))


def merged(model: SidDecoder) -> SidDecoder:
    """Returns a plain model that computes the same: adapters and rows apart made one with the rest.

    What is summed is summed in float32 and stored in the dtype of the model's own parameters. A
    model that has nothing beside it is returned as it is.
    """
    values: _Values = {}
    for name in ("embedding", "head"):
        tail = getattr(model, f"{name}_tail")
        if tail is not None:
            own = getattr(model, name)[...]
            values[(name,)] = jnp.concatenate([own, tail[...].astype(own.dtype)])
    weights = dict(nnx.to_flat_state(nnx.state(model)))
    for path, adapter in adapters(model):
        own = weights[path][...]
        values[path] = (own.astype(jnp.float32) + adapter.delta()).astype(own.dtype)
    return _with_values(model, model.config, values) if values else model


def _with_values(model: SidDecoder, config: SidDecoderConfig, values: _Values) -> SidDecoder:
    """Returns a plain model of a config with the given values, the others from `model`."""
    graph, like = nnx.split(nnx.eval_shape(lambda: SidDecoder(config, rngs=nnx.Rngs(0))))
    own = dict(nnx.to_flat_state(nnx.state(model)))
    flat = []
    for path, variable in nnx.to_flat_state(like):
        value = values[path] if path in values else own[path].get_value()
        flat.append((path, variable.replace(value)))
    return nnx.merge(graph, nnx.from_flat_state(flat))
