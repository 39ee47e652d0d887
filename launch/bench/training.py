"""How long a training step takes, with a position an item and with a position a token.

The path is that of `launch.train`: the loader, the task's inputs and `TrainStep` with AdamW. Model,
loss, loader and dtype are those of `configs/amazon_beauty.py` as it stands; users and items are as
many as Amazon Beauty's, their histories as long, items and SIDs are drawn. All variants take steps
over the same examples, in turn, so that a slow stretch of the machine hits all of them.

The floor is the time of the matrix products that a step cannot leave out, at the best rates that
the machine showed in the same run; `launch.bench.training_floor` says what counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from launch.bench.evaluate import beauty_like_log, random_table
from launch.bench.evaluate_floor import Products, floor_seconds, measure_rates
from launch.bench.training_floor import Places, item_products, mean_products, token_products
from launch.wiring import program, sid
from launch.wiring.catalogue import popularity_trie
from launch.wiring.training import train_settings
from minirec.models import ItemDecoder, SidDecoder
from minirec.sids import SidVocab
from minirec.training import ItemTask, SidTask, make_optimizer, make_schedule
from minirec.training.step import TrainState, TrainStep
from pipelines.batches.row_source import Batch
from pipelines.batches.train_batches import train_batches

TOKENS, ITEMS = "position_a_token", "position_an_item"
ITEM_LOSSES = ("all", "drawn", "none")


def run(
    num_users: int = 22_000,
    num_items: int = 12_000,
    num_levels: int = 4,
    codebook_size: int = 256,
    num_negatives: int = 4096,
    rounds: int = 20,
    num_batches: int = 4,
    item_losses: Sequence[str] = ITEM_LOSSES,
    change: Callable[[ConfigDict], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Yields a row for a position a token and one for a position an item and each item loss.

    `item_loss` is over "all" items, over `num_negatives` that are drawn, or "none", which leaves
    the SID's loss alone. A row holds besides

    - `step_ms`, the median of the rounds, and `best_step_ms`: from the arrays on the host to the
      new parameters, compiled before. `inputs_ms`: what the host takes to make these arrays of a
      batch, in no other figure;
    - `targets_per_second`: items that the loss asks for, by the median; `ratio`: that over the
      one of a position a token;
    - `floor_ms`, as the module says, and `of_floor`: that over the median; `gigaflop` and
      `gigaflop_per_second` are the operations counted and the rate that the floor comes to;
    - `target_share`: share of a batch's places that carry a target; the others are padding or
      context;
    - `compile_seconds`, tracing included;
    - `peak_gb`: what the compiled step holds at the most, by XLA's own account: parameters,
      optimizer state, batch and temporary arrays; None on a backend that does not say.

    Args:
        num_users: users of the log.
        num_items: items of the catalogue.
        num_levels: `L`.
        codebook_size: codes a level.
        num_negatives: items drawn a step, where they are.
        rounds: steps of each variant that are timed, at least 1.
        num_batches: different batches that these steps go through, at least 1.
        item_losses: some of `ITEM_LOSSES`, a row each.
        change: changes the config before anything is made of it.

    Raises:
        ValueError: as many negatives as items or more, which would draw none; an unknown loss.
        RuntimeError: two variants have other examples, or a loss is not finite.
    """
    if not 0 < num_negatives < num_items:
        raise ValueError(f"num_negatives={num_negatives}: must lie in [1, {num_items - 1}]")
    if unknown := sorted(set(item_losses) - set(ITEM_LOSSES)):
        raise ValueError(f"item_losses: {unknown[0]!r} is none of {ITEM_LOSSES}")
    config = program.load_config_module("amazon_beauty").get_config()
    if change is not None:
        change(config)
    config.loader.row_items = 0  # A row is as many items long for all variants.
    catalogue = make_catalogue(num_users, num_items, num_levels, codebook_size)

    variants = [
        Variant(config, catalogue, name, loss, num_batches)
        for name, loss in [(TOKENS, {}), *((ITEMS, _loss(x, num_negatives)) for x in item_losses)]
    ]
    if any(not variant.has_examples_of(variants[0]) for variant in variants):
        raise RuntimeError("two variants have other examples: their ratio means nothing")
    for variant in variants:
        variant.compile()

    best: Products = {}
    products = mean_products(variant.products for variant in variants)
    measure_rates(products, best, config.model.dtype)
    for number in range(rounds):
        for variant in variants:
            variant.step(number)
    measure_rates(products, best, config.model.dtype)
    shared = {
        "users": num_users,
        "items": num_items,
        "levels": num_levels,
        "vocab": catalogue.vocab.size,
        "layers": config.model.num_layers,
        "width": config.model.width,
        "rows": config.loader.batch_size,
        "items_a_row": variants[0].places // config.loader.batch_size,
        "rounds": rounds,
        "dtype": config.model.dtype,
        "device": jax.devices()[0].device_kind,
    }
    for variant in variants:
        yield variant.row(best, variants[0]) | shared


def make_catalogue(
    num_users: int, num_items: int, num_levels: int, codebook_size: int
) -> sid.SidCatalogue:
    """Returns drawn records, as long as Amazon Beauty's, and drawn SIDs."""
    log = beauty_like_log(num_users, num_items)
    table = random_table(num_items, num_levels, codebook_size)
    vocab = SidVocab.from_table(table)
    tokens = vocab.encode(table.codes)
    trie = popularity_trie(tokens, log.train_count, vocab.size)
    # The log is all of the records that training reads.
    return sid.SidCatalogue(cast(Any, log), table, tokens, trie, (), vocab)


class Variant:
    """One way to train: its step, its state, its batches and its times.

    Attributes:
        name: of the model.
        item_loss: what the item's loss is over.
        products: the operations of a step.
        places: items that a batch has room for.
    """

    def __init__(
        self,
        config: ConfigDict,
        catalogue: sid.SidCatalogue,
        name: str,
        loss: dict[str, Any],
        num_batches: int,
    ) -> None:
        """Makes model, task and batches; compiles nothing yet.

        Args:
            config: the experiment.
            catalogue: the records and their SIDs.
            name: `TOKENS` or `ITEMS`.
            loss: what differs in `config.loss`.
            num_batches: batches that the steps go through.
        """
        config = config.copy_and_resolve_references()
        config.model.positions = "items" if name == ITEMS else "tokens"
        config.model.terms_per_item = 0  # What is drawn has no text.
        config.loss.update(loss)
        self.name = name
        model = sid.new_model(config, catalogue)
        batches = train_batches(catalogue.prepared, sid.batch_config(config), seed=config.seed)
        job = program.Job(config, Path(), Path())
        _, stage, label_smoothing = train_settings(job, batches.num_rows)
        self._task = cast(
            ItemTask | SidTask, sid.make_task(config, catalogue, lambda _: {}, label_smoothing)
        )
        self._inputs, self._inputs_seconds, self._examples = [], [], []
        for batch in map(batches.batch_at, range(num_batches)):
            self._examples.append(_examples_of(batch))
            begin = time.perf_counter()
            self._inputs.append(self._task.inputs(batch))
            self._inputs_seconds.append(time.perf_counter() - begin)
        self.item_loss = _item_loss(self._task)
        self.products = mean_products(_products(model, self._task, x) for x in self._inputs)
        asked = [examples[..., -1] for examples in self._examples]
        self.places = asked[0].size
        self._targets = float(np.mean([np.count_nonzero(one) for one in asked]))

        transformation = make_optimizer(stage["optimizer"], stage["num_steps"])
        self._step = TrainStep(
            model,
            nnx.Optimizer(model, transformation, wrt=nnx.Param),
            self._task,
            schedule=make_schedule(stage["optimizer"], stage["num_steps"]),
            accumulate=stage["accumulate"],
            seed=config.seed,
        )
        self._state: TrainState = self._step.start()
        self._seconds: list[float] = []

    def compile(self) -> None:
        """Compiles the step and takes a first one."""
        begin = time.perf_counter()
        memory = self._step.lower(self._state, self._inputs[0], 0).compile().memory_analysis()
        self._compile_seconds = time.perf_counter() - begin
        self._peak = None
        if memory is not None:  # What is donated is counted on both sides.
            kept = memory.output_size_in_bytes - memory.alias_size_in_bytes
            self._peak = memory.argument_size_in_bytes + kept + memory.temp_size_in_bytes
        self.step(0)  # It alone touches new memory.
        self._seconds.clear()

    def has_examples_of(self, other: Variant) -> bool:
        """Returns whether both take steps over the same examples."""
        return all(map(np.array_equal, self._examples, other._examples))

    def step(self, number: int) -> None:
        """Takes a step and keeps its time.

        Raises:
            RuntimeError: loss or gradient are not finite.
        """
        inputs = self._inputs[number % len(self._inputs)]
        begin = time.perf_counter()
        self._state, metrics = self._step(self._state, inputs, number)
        jax.block_until_ready((self._state, metrics))
        self._seconds.append(time.perf_counter() - begin)
        if not bool(metrics.finite):
            raise RuntimeError(f"{self.name}: step {number} has no finite loss or gradient")

    def row(self, rates: Products, beside: Variant) -> dict[str, Any]:
        """Returns what the benchmark says of this variant."""
        seconds, floor = self._median, floor_seconds(self.products, rates)
        operations = sum(self.products.values())
        return {
            "benchmark": "training",
            "implementation": self.name,
            "item_loss": self.item_loss,
            "step_ms": round(1e3 * seconds, 2),
            "best_step_ms": round(1e3 * min(self._seconds), 2),
            "targets_per_second": round(self._targets / seconds, 1),
            "ratio": round(self._targets / seconds / (beside._targets / beside._median), 2),
            "floor_ms": round(1e3 * floor, 3),
            "of_floor": round(floor / seconds, 3),
            "gigaflop": round(operations / 1e9, 2),
            "gigaflop_per_second": round(operations / floor / 1e9, 1),
            "target_share": round(self._targets / self.places, 3),
            "inputs_ms": round(1e3 * float(np.median(self._inputs_seconds)), 2),
            "compile_seconds": round(self._compile_seconds, 2),
            "peak_gb": None if self._peak is None else round(self._peak / 2**30, 3),
        }

    @property
    def _median(self) -> float:
        return float(np.median(self._seconds))


def _loss(name: str, num_negatives: int) -> dict[str, Any]:
    """Returns the fields of `config.loss` that make an item loss."""
    losses = ({"num_negatives": 0}, {"num_negatives": num_negatives}, {"item_weight": 0.0})
    return dict(zip(ITEM_LOSSES, losses, strict=True))[name]


def _examples_of(batch: Batch) -> np.ndarray:
    """Returns `[B, P, 3]`: each place's item, its example, its weight as a target."""
    return np.stack([batch[name] for name in ("item", "segment", "target_weight")], axis=-1)


def _products(
    model: sid.Model, task: ItemTask | SidTask, inputs: dict[str, np.ndarray]
) -> Products:
    """Returns the operations of a step over one batch."""
    if isinstance(task, SidTask):
        assert isinstance(model, SidDecoder)
        places = Places.of_tokens(inputs, task.item_tokens.shape[1])
        return token_products(model.config, places)
    assert isinstance(model, ItemDecoder)
    num_codes = [len(tokens) for tokens in task.prefixes.tokens] if task.sid_weight else []
    return item_products(model.config, Places.of_items(inputs), num_codes, _num_scored(task))


def _num_scored(task: ItemTask) -> int:
    """Returns how many items the item's loss multiplies every state with."""
    if not task.item_weight:
        return 0
    return task.num_negatives if task.draws_negatives else task.prefixes.num_items


def _item_loss(task: ItemTask | SidTask) -> str:
    if isinstance(task, SidTask) or not task.item_weight:
        return "none"
    return f"{task.num_negatives} drawn" if task.draws_negatives else "all"
