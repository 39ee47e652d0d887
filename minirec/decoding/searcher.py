"""Compiled rankings whose programs are shared by batches of about the same shape."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Bool, Int

from kernels.beam_step import NORMALIZE
from kernels.indices import int32_indices
from kernels.trie import Trie
from minirec.decoding.head import check_head
from minirec.decoding.item_ranking import ItemRanking, rank_items
from minirec.decoding.search import beam_search
from minirec.decoding.state import SearchResult, reads
from minirec.models.sharding import AXES, batch_sharding, put, replicate, replicated


@dataclasses.dataclass(frozen=True)
class Buckets:
    """The sizes that a batch is padded up to.

    Attributes:
        sizes: the sizes, ascending; `None` takes `steps` from one power of two to the next.
        smallest: no size below this one.
        steps: a power of two; 4 gives 1 to 8, then 10, 12, 14, 16, 20, 24, …: padding adds at
            most a quarter, and in general one part in `steps`.
    """

    sizes: tuple[int, ...] | None = None
    smallest: int = 1
    steps: int = 4

    def __post_init__(self):
        sizes = self.sizes
        if sizes is not None and (
            not sizes or sizes[0] < 1 or any(a >= b for a, b in itertools.pairwise(sizes))
        ):
            raise ValueError(f"Buckets.sizes={sizes} must be positive and ascending")
        if self.steps < 1 or self.steps & (self.steps - 1):
            raise ValueError(f"Buckets.steps={self.steps} must be a power of two")

    def round_up(self, size: int, what: str) -> int:
        """Returns the smallest bucket that holds `size`.

        Raises:
            ValueError: no bucket does; the message starts with `what`.
        """
        size = max(size, self.smallest)
        if self.sizes is None:
            doubling = 1 << max(0, (size - 1).bit_length() - 1)  # the power of two below
            step = max(1, doubling // self.steps)
            return -(-size // step) * step
        for bucket in self.sizes:
            if bucket >= size:
                return bucket
        raise ValueError(
            f"{what} is {size}, the largest bucket {self.sizes[-1]}: add a larger bucket"
        )


class CompiledRanking[Result]:
    """A function that ranks a batch of users, compiled once a bucketed shape.

    Model weights, trie and filters are arguments of the compiled program: new weights of the same
    model, another trie of the same capacities and other filters use it again.

    Attributes:
        num_traces: how many times the function was traced, which is how often it was compiled.
    """

    def __init__(
        self,
        rank: Callable[..., Result],
        *,
        batch_buckets: Buckets | None = None,
        length_buckets: Buckets | None = None,
        excluded_buckets: Buckets | None = None,
        mesh: Mesh | None = None,
    ):
        """Makes the shell; compiles nothing yet.

        Args:
            rank: from model, prompts, lengths, trie, `excluded` and `allowed` to arrays of which
                each has an entry a user.
            batch_buckets: sizes that the number of users (a device, on a mesh) is padded to.
            length_buckets: sizes that the prompts' length is padded to.
            excluded_buckets: sizes that the exclusion lists are padded to.
            mesh: devices, perhaps of several processes, each of which ranks for its share of the
                users. All processes then make the same calls and have all results; model and trie
                lie on the mesh (`minirec.models.sharding`), each device reads them whole.
        """
        self.num_traces = 0
        self._rank = rank
        self._batch = batch_buckets or Buckets()
        self._length = length_buckets or Buckets(smallest=8)
        self._excluded = excluded_buckets or Buckets(smallest=8)
        self._mesh = mesh
        self._jitted = jax.jit(
            self._traced,
            static_argnums=0,
            out_shardings=None if mesh is None else replicated(mesh),
        )

    def __call__(
        self,
        model: nnx.Module,
        prompts: Int[np.ndarray, "B S"],
        lengths: Int[np.ndarray, " B"],
        trie: Trie,
        *,
        excluded: Int[np.ndarray, "B E"] | None = None,
        allowed: Bool[np.ndarray, "*B items"] | None = None,
    ) -> Result:
        """Returns the result for `B` users as NumPy arrays; arguments as `start`."""
        return self.start(model, prompts, lengths, trie, excluded=excluded, allowed=allowed)()

    def start(
        self,
        model: nnx.Module,
        prompts: Int[np.ndarray, "B S"],
        lengths: Int[np.ndarray, " B"],
        trie: Trie,
        *,
        excluded: Int[np.ndarray, "B E"] | None = None,
        allowed: Bool[np.ndarray, "*B items"] | None = None,
    ) -> Callable[[], Result]:
        """Starts the ranking of a batch and returns what waits for its result.

        The device works while the caller makes the next batch or starts another one.

        Args:
            model: an NNX module that the function knows to ask.
            prompts: right-padded, of what the model `reads`: tokens, or items.
            lengths: how many of them each prompt has; of items it may have none.
            trie: the catalogue.
            excluded: item ids that a user shall not get, -1 pads.
            allowed: which items may be returned, by item id, for all users or for each.

        Raises:
            ValueError: shapes or dtypes that do not fit, a length that a prompt cannot have, or a
                size for which there is no bucket.
        """
        prompts, lengths = np.asarray(prompts), np.asarray(lengths)
        for name, array in (("prompts", prompts), ("lengths", lengths)):
            if not np.issubdtype(array.dtype, np.integer):
                raise ValueError(f"{name}: {array.dtype} must be integers")
        if prompts.ndim != 2 or lengths.shape != prompts.shape[:1]:
            raise ValueError(
                f"prompts {prompts.shape} and lengths {lengths.shape} must be [B, S] and [B]"
            )
        B, S = prompts.shape
        # Before a history of no items there is still where it begins; of tokens that is one.
        least = 0 if reads(model) == "item" else 1
        wrong = np.flatnonzero((lengths < least) | (lengths > S))
        if wrong.size:
            raise ValueError(
                f"lengths[{wrong[0]}]={lengths[wrong[0]]} must lie in [{least}, {S}], the prompts' "
                "width"
            )
        devices = 1 if self._mesh is None else self._mesh.size
        users = self._batch.round_up(-(-B // devices), "the batch") * devices
        width = self._length.round_up(S, "the prompts' width")
        # What the padding holds is never seen, but a prompt of no tokens has no last one.
        prompts = _pad(prompts.astype(np.int32), (users, width), 0)
        lengths = _pad(lengths.astype(np.int32), (users,), 1)
        if excluded is not None:
            excluded = np.asarray(int32_indices("excluded", excluded))
            if excluded.ndim != 2 or excluded.shape[0] != B:
                raise ValueError(f"excluded {excluded.shape} must be [{B}, E]")
            entries = self._excluded.round_up(excluded.shape[1], "the exclusion lists' width")
            excluded = _pad(excluded, (users, entries), -1)
        if allowed is not None:
            allowed = np.asarray(allowed)
            if allowed.ndim not in (1, 2) or (allowed.ndim == 2 and allowed.shape[0] != B):
                raise ValueError(f"allowed {allowed.shape} must be [items] or [{B}, items]")
            # Ids past the trie's item capacity are in no leaf.
            allowed = allowed[..., : trie.capacities.items]
            shape = (users,) * (allowed.ndim - 1) + (trie.capacities.items,)
            allowed = _pad(allowed, shape, False)
        graphdef, state = nnx.split(model)
        by_user, by_item = (prompts, lengths, excluded, allowed), None
        if allowed is not None and allowed.ndim == 1:
            by_user, by_item = (prompts, lengths, excluded, None), allowed
        if self._mesh is not None:
            rows = batch_sharding(self._mesh)
            by_user = jax.tree.map(lambda array: put(array, rows), by_user)
            by_item = replicate(by_item, self._mesh)
        result = self._jitted(graphdef, state, trie, by_item, by_user)
        return lambda: jax.tree.map(lambda array: np.asarray(array)[:B], result)

    def _traced(self, graphdef, state, trie, by_item, by_user) -> Result:
        self.num_traces += 1

        def rank(state, trie, by_item, by_user) -> Result:
            prompts, lengths, excluded, allowed = by_user
            model = nnx.merge(graphdef, state)
            allowed = by_item if allowed is None else allowed
            return self._rank(model, prompts, lengths, trie, excluded=excluded, allowed=allowed)

        if self._mesh is not None:
            # Each device runs the program of one device: XLA could not split a kernel.
            rows, whole = PartitionSpec(AXES), PartitionSpec()
            rank = jax.shard_map(
                rank,
                mesh=self._mesh,
                in_specs=(whole, whole, whole, rows),
                out_specs=rows,
                check_vma=False,
            )
        return rank(state, trie, by_item, by_user)


class BeamSearcher(CompiledRanking[SearchResult]):
    """Beam search, compiled once a bucketed shape."""

    def __init__(
        self,
        *,
        num_beams: int,
        normalize: str = "vocab",
        head: str | None = None,
        implementation: str | None = None,
        **shell: Any,
    ):
        """Makes a searcher; compiles nothing yet.

        Args:
            num_beams: beams kept a user, and items returned.
            normalize: see `beam_search`.
            head: see `beam_search`.
            implementation: of the beam step; `None` picks by platform.
            **shell: buckets and mesh; see `CompiledRanking`.

        Raises:
            ValueError: a number of beams, a normalisation, a head or an implementation that is
                none.
        """
        if num_beams < 1:
            raise ValueError(f"num_beams={num_beams} must be at least 1")
        if normalize not in NORMALIZE:
            raise ValueError(f"normalize={normalize!r} must be one of {', '.join(NORMALIZE)}")
        check_head(head, implementation)
        self.num_beams, self.normalize = num_beams, normalize
        search = functools.partial(
            beam_search,
            num_beams=num_beams,
            normalize=normalize,
            head=head,
            implementation=implementation,
        )
        super().__init__(search, **shell)


class ItemRanker(CompiledRanking[ItemRanking]):
    """All items ranked by a model's item table (`rank_items`), compiled once a bucketed shape."""

    def __init__(self, *, num_items: int, **shell: Any):
        """Makes a ranker; compiles nothing yet.

        Args:
            num_items: items returned a user.
            **shell: buckets and mesh; see `CompiledRanking`.

        Raises:
            ValueError: no item at all.
        """
        if num_items < 1:
            raise ValueError(f"num_items={num_items} must be at least 1")
        super().__init__(functools.partial(rank_items, num_items=num_items), **shell)


def _pad(array: np.ndarray, shape: Sequence[int], value: int | bool) -> np.ndarray:
    widths = [(0, size - present) for size, present in zip(shape, array.shape, strict=True)]
    return np.pad(array, widths, constant_values=value)
