"""The family `sid`: decoders of semantic IDs, trained from nothing."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Int
from ml_collections import ConfigDict

from launch.wiring import baselines, item_text, made_with, training
from launch.wiring.catalogue import (
    APPENDED,
    SIDS,
    Catalogue,
    check_trained_on,
    fingerprints,
    keep_sids,
    load_items,
    load_prepared,
    popularity_trie,
    require_sids,
)
from launch.wiring.experiment import Experiment, Run, Training
from launch.wiring.program import Job
from launch.wiring.search import make_mesh, shared_item_ranker
from minirec.decoding import ItemRanker
from minirec.decoding.ranking import RankedUsers
from minirec.files.schema import require_whole
from minirec.models import (
    ItemDecoder,
    ItemDecoderConfig,
    ItemReader,
    ItemTerms,
    SidDecoder,
    SidDecoderConfig,
    SidReader,
    TrunkConfig,
    sharding,
)
from minirec.recommend.content import Neighbours
from minirec.sids import SidTable, SidVocab
from minirec.training import (
    ItemTask,
    SidPrefixes,
    SidTask,
    Stage,
    Task,
    load_best,
)
from pipelines.batches.eval_batches import EvalBatches, eval_batches
from pipelines.batches.train_batches import BatchConfig, train_batches
from pipelines.prepared import Prepared

Model = ItemDecoder | SidDecoder
NewModel = Callable[[ConfigDict, "SidCatalogue"], nnx.Module]
VOCAB = "vocab.json"
_NOT_THE_TRUNKS = ("positions", "level_width", "terms_per_item", "tie_embeddings")


@dataclasses.dataclass(frozen=True)
class SidCatalogue(Catalogue):
    """The items as a decoder of SIDs writes them.

    Attributes:
        vocab: the model's tokens.
        made_terms: what `items_terms` has made last, by what it was asked for.
    """

    vocab: SidVocab
    made_terms: dict[Any, ItemTerms | None] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )


def load_catalogue(
    prepared: Prepared,
    sids_folder: Path,
    appended_path: Path | None = None,
    mesh: Mesh | None = None,
) -> SidCatalogue:
    """Returns the catalogue of prepared records and of the SIDs in a folder.

    Args:
        prepared: the records.
        sids_folder: holds sids.json, sids_report.json and, where a model was trained with it,
            vocab.json.
        appended_path: file of items that were given SIDs later; None leaves them out.
        mesh: each of its devices gets the trie.

    Raises:
        ValueError: a step before this one has not run, or the SIDs do not fit the records.
    """
    items = load_items(prepared, sids_folder, appended_path)
    path = sids_folder / VOCAB
    vocab = SidVocab.load(path) if path.is_file() else SidVocab.from_table(items.known)
    item_tokens = vocab.encode(items.table.codes)
    trie = popularity_trie(item_tokens, items.train_count, vocab.size)
    trie = sharding.replicate(trie, mesh)
    return SidCatalogue(
        prepared, items.table, item_tokens, trie, items.titles, vocab, later=items.later
    )


def train_sid(job: Job, new_model: NewModel) -> Training:
    """Returns what trains a decoder as the job's config says.

    Args:
        job: whose run.
        new_model: makes the decoder.

    Raises:
        ValueError: a step before this one has not run, or the config asks for what cannot be.
    """
    config = job.config
    mesh = training.checked_mesh(config)
    prepared = load_prepared(job)
    require_sids(job, job.sids)
    catalogue = load_catalogue(prepared, job.sids, mesh=mesh)
    batches = train_batches(
        prepared,
        batch_config(config),
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    settings, stage_options, label_smoothing = training.train_settings(job, batches.num_rows)
    prompts = functools.partial(split_batches, catalogue, config)
    reader = reader_of(config, catalogue, mesh)
    validator = training.make_validator(config, catalogue, prompts, mesh, reader)
    like = None
    if reads_items(config) and config.loss.neighbour_share > 0:
        like = baselines.neighbours(job, prepared)
    return Training(
        make_model=lambda: new_model(config, catalogue),
        task=make_task(config, catalogue, validator, label_smoothing, like),
        stages=[Stage("train", lambda: batches, **stage_options)],
        settings=settings,
        record=run_record(job, catalogue),
        describe_batch=batches.describe,
        mesh=mesh,
        keep=lambda: keep_catalogue(job, catalogue),
    )


def make_task(
    config: ConfigDict,
    catalogue: SidCatalogue,
    evaluator: Callable[[Any], dict[str, float]],
    label_smoothing: float,
    like: Neighbours | None = None,
) -> Task:
    """Returns what the config's model learns.

    Args:
        config: the experiment.
        catalogue: the items.
        evaluator: from the model to its metrics.
        label_smoothing: share of a target that is spread.
        like: which items are like which; needed where `config.loss.neighbour_share` is not 0.

    Raises:
        ValueError: a field of `config.loss` is impossible.
    """
    one_target_a_row = config.loader.examples == "windows" and not config.loader.pack
    if reads_items(config):
        return ItemTask(
            evaluator,
            SidPrefixes.of(catalogue.item_tokens),
            select_metric=training.SELECT_METRIC,
            label_smoothing=label_smoothing,
            train_count=catalogue.prepared.train_count,
            max_targets=1 if one_target_a_row else None,
            terms=item_terms(config, catalogue),
            neighbours=item_text.text_neighbours(like),
            **config.loss.to_dict(),
        )
    return SidTask(
        evaluator,
        catalogue.item_tokens,
        select_metric=training.SELECT_METRIC,
        label_smoothing=label_smoothing,
        max_targets=1 if one_target_a_row else None,
    )


def keep_catalogue(job: Job, catalogue: SidCatalogue) -> None:
    """Keeps the SIDs and the vocabulary with the run, whose record has just been found to match."""
    keep_sids(job)
    catalogue.vocab.save(job.run / VOCAB)


def run_record(job: Job, catalogue: SidCatalogue) -> dict[str, Any]:
    """Returns what makes a run this one: settings that change it, and what it was trained on."""
    prepared = catalogue.prepared
    return {
        "config": made_with.run_part(job.config),
        "data": prepared.manifest["config"],
        **_trained_on(job.config, catalogue, job.sids / SIDS),
    }


@dataclasses.dataclass(frozen=True)
class ItemPrompts:
    """Prompts of items, all of one width: the newest of a history."""

    widths: tuple[int]

    def __call__(self, history: Int[np.ndarray, " H"]) -> Int[np.ndarray, " n"]:
        """Returns the newest items, oldest first; there may be none."""
        return history[-self.widths[0] :]


def _trained_on(config: ConfigDict, catalogue: SidCatalogue, sids: Path) -> dict[str, Any]:
    """Returns what a run was trained on: records, SIDs and, where it reads them, terms."""
    known = fingerprints(catalogue.prepared, sids, catalogue.vocab.size)
    terms = item_terms(config, catalogue)
    if terms is None:
        return known
    num_items = catalogue.prepared.num_items
    return known | {"terms_sha256": item_text.terms_sha256(terms, num_items)}


@dataclasses.dataclass(frozen=True, eq=False)
class SidRun(Run):
    """A trained decoder of SIDs."""

    catalogue: SidCatalogue
    model: SidReader | ItemReader

    def split_batches(self, split: str, max_users: int) -> EvalBatches:
        """Returns the prompts of a split; see `Run`."""
        return split_batches(self.catalogue, self.config, split, max_users)

    @property
    def prompts(self) -> ItemPrompts:
        """The newest items of a history, as many as a row of training shows; see `Run`."""
        return ItemPrompts((self.config.loader.max_items,))

    def tokens_of(self, table: SidTable) -> Int[np.ndarray, "N L"]:
        """Returns the tokens of items' SIDs; see `Run`."""
        return self.catalogue.vocab.encode(table.codes)

    def with_items(
        self,
        item_tokens: Int[np.ndarray, "items L"],
        raw_item_ids: Sequence[str],
        titles: Sequence[str],
    ) -> nnx.Module:
        """Returns the model as it reads other items; see `Run`."""
        decoder = self.model.decoder
        if isinstance(self.model, SidReader):
            return SidReader(decoder, item_tokens)
        terms = items_terms(self.config, self.catalogue, raw_item_ids, titles)
        if terms is not None:
            per_item = self.config.model.terms_per_item
            terms = item_text.padded(terms, len(item_tokens), per_item)
        return ItemReader(decoder, item_tokens, terms)

    def codes(self, ranked: RankedUsers) -> Int[np.ndarray, "n M L"]:
        """Returns the codes of the beams; see `Run`."""
        codes = np.full(ranked.sid.shape, -1, np.int32)
        codes[~ranked.dead] = self.catalogue.vocab.decode(ranked.sid[~ranked.dead])
        return codes

    def item_ranker(self, num_items: int) -> ItemRanker | None:
        """Returns what ranks by the item table, where it was trained; see `Run`."""
        if not reads_items(self.config) or self.config.loss.item_weight <= 0:
            return None
        return shared_item_ranker(num_items, self.mesh)


def load_run(job: Job, new_model: NewModel, *, with_appended: bool = False) -> SidRun:
    """Returns the catalogue and the best model of the job's run.

    Args:
        job: whose run.
        new_model: makes the decoder.
        with_appended: see `Experiment`.

    Raises:
        ValueError: there is no such run, or it was trained with other data, SIDs or settings than
            the ones at hand; the message names the field and both values.
        FileNotFoundError: the run has saved no model yet.
    """
    mesh = make_mesh(job.config)
    path = job.run / "config.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing: run launch.train first")
    appended = job.sids / APPENDED if with_appended else None
    trained = made_with.check_run(job)
    require_sids(job, job.run)
    catalogue = load_catalogue(load_prepared(job), job.run, appended, mesh)
    here = _trained_on(job.config, catalogue, job.run / SIDS)
    check_trained_on(job, trained, here)
    model = nnx.eval_shape(lambda: new_model(job.config, catalogue))
    sharding.place(model, mesh)
    best = load_best(job.run, model)
    return SidRun(job.config, catalogue, reader_of(job.config, catalogue, mesh)(best), mesh)


def reads_items(config: ConfigDict) -> bool:
    """Returns whether the model has a position an item, and not one a token of a SID.

    Raises:
        ValueError: `config.model.positions` is neither.
    """
    positions = config.model.positions
    if positions not in ("items", "tokens"):
        raise ValueError(f"config.model.positions={positions!r}: must be 'items' or 'tokens'")
    return positions == "items"


def item_terms(config: ConfigDict, catalogue: SidCatalogue) -> ItemTerms | None:
    """Returns the terms of the items' text that the config's model reads, made once a catalogue.

    Those of items that were appended are among them, by their titles.

    Args:
        config: the experiment.
        catalogue: the items.

    Returns:
        `None` where the model reads none, or nothing is known of any item.

    Raises:
        ValueError: `config.model.terms_per_item` is no whole number from 0 on.
    """
    return items_terms(config, catalogue, catalogue.table.raw_item_ids, catalogue.titles)


def items_terms(
    config: ConfigDict,
    catalogue: SidCatalogue,
    raw_item_ids: Sequence[str],
    titles: Sequence[str],
) -> ItemTerms | None:
    """Returns `item_terms` of the records' items and of others behind them.

    Args:
        config: the experiment.
        catalogue: the run's items.
        raw_item_ids: of all items, those of the records first.
        titles: what to show people of each.
    """
    if not reads_items(config):
        return None
    per_item = config.model.get("terms_per_item", 0)  # A family's own model may have no such field.
    require_whole("config.model.terms_per_item", per_item, least=0)
    if not per_item:
        return None
    num_items = catalogue.prepared.num_items
    key = (per_item, tuple(raw_item_ids[num_items:]), tuple(titles[num_items:]))
    if key not in catalogue.made_terms:
        catalogue.made_terms.clear()  # Of another version of the catalogue, which has gone.
        catalogue.made_terms[key] = item_text.item_terms(
            catalogue.prepared, raw_item_ids, titles, per_item
        )
    return catalogue.made_terms[key]


def make_model(
    config: ConfigDict, vocab_size: int, items: tuple[int, int], num_terms: int = 0
) -> Model:
    """Returns the decoder that `config.model` describes, with weights drawn from the seed.

    Args:
        config: the experiment.
        vocab_size: tokens of SIDs.
        items: `(N, L)`, items of the records and levels of their SIDs.
        num_terms: terms of the items' text.

    Raises:
        ValueError: a field of `config.model` is unknown or impossible.
    """
    fields = config.model.to_dict()
    own = {name: fields.pop(name) for name in _NOT_THE_TRUNKS}
    trunk = TrunkConfig(**fields)
    rngs = nnx.Rngs(config.seed)
    if not reads_items(config):
        return SidDecoder(SidDecoderConfig(trunk, vocab_size, own["tie_embeddings"]), rngs=rngs)
    decoder = ItemDecoderConfig(
        trunk, vocab_size, *items, own["level_width"], own["tie_embeddings"], num_terms
    )
    return ItemDecoder(decoder, rngs=rngs)


def new_model(config: ConfigDict, catalogue: SidCatalogue) -> Model:
    """Returns the decoder that `config.model` describes for a catalogue; see `make_model`."""
    items = (catalogue.prepared.num_items, catalogue.table.num_levels)
    terms = item_terms(config, catalogue)
    return make_model(config, catalogue.vocab.size, items, terms.num_terms if terms else 0)


def reader_of(
    config: ConfigDict, catalogue: SidCatalogue, mesh: Mesh | None
) -> Callable[[nnx.Module], SidReader | ItemReader]:
    """Returns what puts a decoder and the catalogue's SIDs and terms together, on the devices."""
    item_tokens = sharding.replicate(jnp.asarray(catalogue.item_tokens, jnp.int32), mesh)
    if not reads_items(config):
        return lambda model: SidReader(model, item_tokens)
    terms = jax.tree.map(jnp.asarray, item_terms(config, catalogue))
    terms = sharding.replicate(terms, mesh)
    return lambda model: ItemReader(model, item_tokens, terms)


def batch_config(config: ConfigDict) -> BatchConfig:
    """Returns the loader's settings from `config.loader`."""
    fields = config.loader.to_dict()
    for name in ("row_items", "stride"):
        fields[name] = fields[name] or None
    return BatchConfig(**fields)


def split_batches(
    catalogue: SidCatalogue, config: ConfigDict, split: str, max_users: int
) -> EvalBatches:
    """Returns the prompts of a split; `max_users` 0 takes all users."""
    return eval_batches(
        catalogue.prepared,
        split,
        batch_size=config.evaluate.batch_size,
        max_items=config.loader.max_items,
        max_users=max_users or None,
        seed=config.seed,
    )


def family(new_model: NewModel) -> Experiment:
    """Returns the family of a decoder that is trained and searched as those here are.

    Args:
        new_model: makes it from a config and a catalogue, with weights drawn from the seed.
    """
    load = functools.partial(load_run, new_model=new_model)
    return Experiment(functools.partial(train_sid, new_model=new_model), load)


EXPERIMENT = family(new_model)
