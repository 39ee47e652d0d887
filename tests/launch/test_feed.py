"""The family `feed` on a small shop's log, by the common verbs."""

import json
import types

import numpy as np
import pytest

from configs import blocks
from launch import evaluate, make_sids, recommend, train
from launch.wiring import feed, program, serving
from minirec.recommend import baselines_for
from minirec.training import read_metrics
from pipelines.prepare.prepare import prepare
from tests.launch.fields import refused_fields

ITEMS, USERS = 40, 90
SMALL = {
    "data.k_core": 0, "model.attributes": ("kind",), "model.num_buckets": 64,
    "model.hash_width": 8, "model.num_layers": 1, "model.width": 16, "model.num_heads": 1,
    "model.num_kv_heads": 1, "model.head_dim": 16, "model.mlp_width": 16, "model.dropout": 0.0,
    "model.vector_width": 8, "loader.batch_size": 8, "loader.max_items": 8, "loader.row_items": 8,
    "loss.actions": "buy=4", "loss.num_recent": 3, "loss.num_negatives": 2, "loss.num_shared": 1,
    "loss.num_retrieved": 16, "train.num_epochs": 0, "train.num_steps": 60,
    "train.learning_rate": 1e-2, "train.warmup_steps": 5, "train.eval_every": 30,
    "train.checkpoint_every": 30, "train.log_every": 20, "search.retrieved": 10,
    "search.num_items": 10, "evaluate.batch_size": 32, "evaluate.resamples": 50,
}  # fmt: skip


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A log in which people go back to what they looked at, and its run, trained."""
    folder = tmp_path_factory.mktemp("feed")
    rng = np.random.default_rng(0)
    lines = ["user,item,time,what"]
    for user in range(USERS):
        seen, now = [int(rng.integers(ITEMS))], 1000 * user
        for _ in range(9):
            again = rng.random() < 0.7
            seen.append(seen[-1] if again else int(rng.integers(ITEMS)))
        for item in seen:
            now += int(rng.integers(1, 500))
            what = "buy" if rng.random() < 0.2 else "view"
            lines.append(f"u{user},i{item},{now},{what}")
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    names = [f"i{item},kind={item % 4}" for item in range(ITEMS)]
    (folder / "items.csv").write_text("\n".join(["item,kind", *names]) + "\n")
    config = blocks.feed("shop")
    config.data.source = program.load_config_module("own_log").get_config("csv").data.source
    fields = {"folder": str(folder), "interactions": "log.csv", "event": "what",
              "events": "view=1,buy=1", "catalogue": "items.csv",
              "attributes": "kind"}  # fmt: skip
    config.update_from_flattened_dict({f"data.source.{name}": v for name, v in fields.items()})
    config.update_from_flattened_dict(SMALL)
    job = program.Job(config, folder, folder / "runs" / "shop")
    prepare(config.data.to_dict(), job.prepared)
    return job


@pytest.fixture(scope="module")
def report(job):
    assert train.run_training(job).reason == "finished"
    return evaluate.run_evaluation(job)


def test_a_report_has_the_feed_its_parts_and_every_baseline(job, report):
    assert list(report.evaluations)[:3] == ["feed", "ranker", "two_tower"]
    counts = baselines_for(has_order=True, repeats=True)
    assert set(report.evaluations) == {"feed", "ranker", "two_tower", *counts}
    assert report.main == "feed"
    assert report.model.invalid == 0
    of_file = json.loads((job.run / "report" / "report.json").read_text())
    ndcg = {name: row["item"]["ndcg@10"] for name, row in of_file["metrics"].items()}
    # Seven of ten events repeat the one before, which a ranker sees and popularity does not.
    assert ndcg["ranker"] > 0.5 > ndcg["popularity"]
    assert of_file["differences"]["popularity"]["item"]["ndcg@10"][0] > 0
    assert "recency_transition" in of_file["metrics"]
    first, *_, last = [line for line in read_metrics(job.run) if "next_loss" in line]
    assert last["next_loss"] < first["next_loss"]
    assert last["retrieval_loss"] < first["retrieval_loss"]


def test_lists_hold_no_item_twice_and_nothing_excluded(job, report):
    run = feed.load(job)
    like = types.SimpleNamespace()  # Neighbours are asked for below alone.
    sources = feed.Sources(run, like)
    sources.facts = None
    batches = feed.judged_batches(run.catalogue.prepared, run.split_batches("test", 0), "test")
    batch = next(iter(batches))
    nobody = np.full((len(batch["valid"]), 3), -1, np.int32)
    given = np.tile(np.array([0, 0, 39], np.int32), (len(nobody), 1))
    free = sources._judge(batch, given)
    for row in np.flatnonzero(batch["valid"]):
        listed = free.item[row][free.item[row] >= 0].tolist()
        assert len(set(listed)) == len(listed)
        assert {0, 39, *batch["item"][row].tolist()} - {-1} <= set(listed)
        logits = free.logits[row, : len(listed), -1]
        assert (np.diff(logits) <= 0).all()
    kept = sources._judge(batch, nobody, excluded=batch["history"])
    for row in np.flatnonzero(batch["valid"]):
        seen = set(batch["history"][row].tolist()) - {-1}
        assert not seen & set(kept.item[row].tolist())
        assert not seen & set(kept.retrieved[row].tolist())


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("model.attributes", ("colour",), "no item has an attribute 'colour'"),
        ("loss.actions", "buy=much", "not TYPE=WEIGHT"),
        ("loss.actions", "buy=nan", "not TYPE=WEIGHT"),
        ("loss.actions", "buy=1,buy=2", "not TYPE=WEIGHT"),
        ("loss.power", -1.0, r"config\.loss\.power"),
        ("search.num_items", 0, r"config\.search\.num_items=0"),
        ("search.retrieved", -1, r"config\.search\.retrieved=-1"),
        ("loss.actions", "rent=2", "no event type 'rent'; it has view, buy"),
        ("train.label_smoothing", 0.1, "label_smoothing"),
        ("mesh.data", 2, "one device"),
        ("search.num_items", 5, r"config\.search\.num_items=5: must be at least 10"),
    ],
)
def test_what_cannot_be_is_named(job, field, value, said):
    config = job.config.copy_and_resolve_references()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ValueError, match=said):
        feed.training_of(program.Job(config, job.workdir, job.workdir / "runs" / "wrong"))


def test_a_changed_field_is_refused_by_every_later_step(job, report):
    refused = refused_fields(job)
    assert {"data.k_core", "model.attributes", "loss.num_recent", "search.retrieved"} - refused == {
        "search.retrieved"  # It shapes an evaluation alone.
    }


def test_a_feed_has_no_sids_to_make(job):
    with pytest.raises(program.UsageError, match="writes no SIDs"):
        make_sids.make(job)


@pytest.mark.parametrize("rank_by", ["system", "ranker", "two_tower"])
def test_a_feed_recommends_to_histories(job, report, rank_by):
    histories = [["i1", "i2", "i7"], [], ["i7"] * 20]
    rows = list(recommend.recommend(job, histories, top=4, rank_by=rank_by, exclude=["i3"]))
    by_user = {user: [row for row in rows if row["user"] == user] for user in range(3)}
    for mine in by_user.values():
        assert [row["rank"] for row in mine] == [0, 1, 2, 3]
        listed = [row["item_id"] for row in mine]
        assert len(set(listed)) == 4
        assert "i3" not in listed
        scores = [row["score"] for row in mine if row["score"] is not None]
        assert scores == sorted(scores, reverse=True)
    assert all("note" in row for row in by_user[1])
    if rank_by != "two_tower":  # Seven of ten events repeat the one before.
        assert by_user[2][0]["item_id"] == "i7"
    if rank_by == "system":
        alone = recommend.recommend(job, [histories[0]], top=4, rank_by="feed", exclude=["i3"])
        assert [row["item_id"] for row in alone] == [row["item_id"] for row in by_user[0]]


def test_what_a_feed_cannot_recommend_by_is_named(job, report):
    with pytest.raises(program.UsageError, match="ranks by feed, ranker, two_tower"):
        list(recommend.recommend(job, [["i1"]], top=3, rank_by="model"))
    with pytest.raises(program.UsageError, match=r"launch\.feed serves a feed"):
        serving.load(job)
    with pytest.raises(ValueError, match="'i999'"):
        list(recommend.recommend(job, [["i999"]], top=3))


def test_numbers_of_many_items_are_codes_of_two_levels():
    item = np.array([[0, 65_535, 65_536, 200_000, -1]])
    codes = feed.number_codes(item, 200_001)
    assert feed.code_sizes(200_001) == (4, 65_536)
    assert codes[0].tolist() == [[0, 0], [0, 65_535], [1, 0], [3, 3392], [-1, -1]]


def test_a_report_says_what_probabilities_and_sources_are_worth(job, report):
    found = json.loads((job.run / "report" / "report.json").read_text())["quality"]
    prepared = feed.load_catalogue(job).prepared
    views, target = prepared.views("test"), prepared.targets("test")
    assert found["ranker"]["targets"] == len(views)
    actions = found["ranker"]["actions"]
    event = prepared.columns["event"][views[:, 2]]
    assert [actions[name]["targets"] for name in ("view", "buy")] == np.bincount(event).tolist()
    for of in actions.values():
        assert of["auc_per_user"] > 0.6  # Seven of ten repeat the item before.
        assert of["auc_pooled"] > 0.6
        assert 0 < of["log_loss"] < 1
        assert of["calibration"]["observed"] > 0
        assert of["auc_of_viewed"]["recency"] > 0.6
    # Over all items as over the candidates: those hold nearly all.
    assert found["ranker"]["all_items"]["hr@1"] > 0.5
    sources = found["sources"]
    histories = prepared.histories("test", np.arange(len(views)))
    again = np.mean([one in past for one, past in zip(target, histories, strict=True)])
    assert sources["recency"]["recall"] == pytest.approx(again, abs=1e-5)
    assert sources["recency"]["recall_of_new"] == 0
    assert sources["together"]["recall"] >= max(
        of["recall"] for name, of in sources.items() if name != "together"
    )
