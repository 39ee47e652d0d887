"""How many users a second a server answers, and how long each waits.

The quickstart's chain is run once, with few steps: what a model has learnt changes no time. Then
the engine is asked in this process, and `launch.serve` over HTTP by a client on the same cores.
"""

from __future__ import annotations

import collections
import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from launch.bench import served, serving_language
from launch.wiring import serving
from launch.wiring.child import module_command, tied
from launch.wiring.experiment import Run
from launch.wiring.fusion_run import fused
from launch.wiring.program import Job, load_config_module
from minirec.decoding.ranking import rank_users
from minirec.files import atomic_path
from minirec.recommend.sources import MODEL, SYSTEM
from minirec.serving.engine import Engine, Request

_CONFIG = "quickstart"
_CHANGES = {"train.num_steps": 20, "train.eval_every": 20}
_FLAGS = tuple(f"--config.{field}={value}" for field, value in _CHANGES.items())
_USERS = 1600
_NUM = 10
_SECONDS = 8.0  # of a saturated server
_LOAD_SECONDS = 6.0  # of each load
_DEADLINE_MS = 1000.0
_LOADS = (0.1, 0.25, 0.5, 0.7, 0.9, 1.0, 1.5, 3.0)
_HELD = 4  # tiles' worth of requests that an engine is given ahead


def run(folder: str | None = None) -> Iterator[dict[str, Any]]:
    """Yields a row a ranking of the engine alone, and one a kind of load over HTTP.

    `engine`: users a second, saturated, beside `offline`, the loop of `launch.evaluate` over the
    same users; `lone_ms` of a single request beside a compiled search of a tile (`tile_ms`).
    `http`: saturated by as many clients as four tiles hold, and at shares of that; `naive`: a
    handler that runs one search a request. Then the rows of `launch.bench.serving_language`.

    Args:
        folder: keeps the run from one time to the next; None: a temporary one.
    """
    with contextlib.ExitStack() as stack:
        base = Path(folder or stack.enter_context(tempfile.TemporaryDirectory()))
        workdir = base / "serving"
        if not (workdir / "runs").is_dir():
            _chain(workdir)
        config = load_config_module(_CONFIG).get_config()
        config.update_from_flattened_dict(_CHANGES)
        job = Job(config, workdir, workdir / "runs" / config.name)
        saturated: dict[str, float] = {}
        for row in _engine_rows(job):
            saturated[row["rank_by"]] = row["users_per_second"]
            yield row
        for name in (MODEL, SYSTEM):
            yield from _http_rows(workdir, base, name, saturated[name])
        yield from serving_language.run()


def draw(rows: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """Draws latency against load into `serving.svg` and `serving.png`, and returns these.

    Args:
        rows: of `run`; those with a `load` make the points, a panel a ranking.
        folder: made where it does not exist.
    """
    loaded = [row for row in rows if "load" in row]
    names = list(dict.fromkeys(row["rank_by"] for row in loaded))
    figure = Figure(figsize=(5.5 * max(len(names), 1), 4.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        points = sorted((row for row in loaded if row["rank_by"] == name), key=_load_of)
        for field, share, style in (
            ("answered_ms", "p50", "C0.-"),
            ("answered_ms", "p99", "C1.-"),
            ("refused_ms", "p99", "C3.:"),
        ):
            found = [(row["load"], row[field][share]) for row in points if share in row[field]]
            if found:
                label = f"{field.removesuffix('_ms')}, {share}"
                axes.plot(*zip(*found, strict=True), style, label=label)
        lone = [row["lone_ms"]["p50"] for row in rows if row["rank_by"] == name and _is_http(row)]
        for milliseconds in lone:
            axes.axhline(milliseconds, color="k", ls="--", lw=0.8, label="a lone request, p50")
        axes.axvline(1.0, color="0.7", lw=0.8)
        axes.set(xscale="log", yscale="log", title=f"rank_by={name}", ylabel="Milliseconds")
        axes.set_xlabel("Load, of saturation")
        ticks = [f"{row['load']:g}" for row in points]
        axes.set_xticks([row["load"] for row in points], ticks, rotation=45)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
    files = [folder / "serving.svg", folder / "serving.png"]
    for file in files:
        with atomic_path(file) as temporary:
            figure.savefig(temporary, dpi=150)
    return files


def _load_of(row: dict[str, Any]) -> float:
    return row["load"]


def _is_http(row: dict[str, Any]) -> bool:
    """Whether a row tells of a server's lone requests."""
    return row["implementation"] == "http" and "lone_ms" in row


def _chain(workdir: Path) -> None:
    for verb in ("prepare", "make_sids", "train", "evaluate"):
        command = module_command(
            f"launch.{verb}", f"--config={_CONFIG}", f"--workdir={workdir}", *_FLAGS
        )
        done = subprocess.run(tied(command), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"launch.{verb} failed: {done.stderr.strip()[-2000:]}")


def _engine_rows(job: Job) -> Iterator[dict[str, Any]]:
    server = serving.load(job)
    run, answering = server.run, server.served
    prepared = run.catalogue.prepared
    rows = np.arange(min(_USERS, len(prepared.views("test"))))
    raw = prepared.raw_item_ids
    histories = prepared.histories("test", rows)
    asked = [[raw[item] for item in history] for history in histories]
    engine = Engine(
        server.recommender, answering, exclude_seen=True, deadline_s=600.0, max_queue=10**6
    )
    for name in (MODEL, SYSTEM):
        requests = [Request(history, num=_NUM, rank_by=name) for history in asked]
        offline = _offline(run, name, answering)
        mine, theirs = [], []
        for _ in range(3):
            mine.append(
                len(requests) / _timed(lambda requests=requests: _saturate(engine, requests))
            )
            theirs.append(len(rows) / _timed(offline))
        lone = _lone(engine, requests[:100])
        tile = _tile_ms(server, histories[: server.recommender.tile], name)
        yield {
            "benchmark": "serving",
            "implementation": "engine",
            "rank_by": name,
            "tile": server.recommender.tile,
            "users_per_second": round(float(np.median(mine)), 1),
            "offline_users_per_second": round(float(np.median(theirs)), 1),
            "ratio": round(float(np.median(mine) / np.median(theirs)), 3),
            "lone_ms": round(lone, 2),
            "tile_ms": round(tile, 2),
            "lone_ratio": round(lone / tile, 2),
        }
    engine.close()


def _offline(run: Run, name: str, answering: Any) -> Callable[[], object]:
    """Returns the loop of `launch.evaluate` over the same users."""
    ranker = answering.ranker
    batches = list(run.split_batches("test", _USERS))

    def search() -> object:
        return rank_users(
            run.model, batches, ranker.searcher, run.catalogue.trie, exclude_seen=True
        )

    def system() -> object:
        prepared = run.catalogue.prepared
        offline = run.ranker(neighbours=ranker.neighbours)
        rankings = offline.rank(batches, lambda rows: prepared.histories("test", rows))
        return fused(rankings, answering.system, offline, ranker.length)

    chosen = search if name == MODEL else system
    chosen()  # Compiles.
    return chosen


def _saturate(engine: Engine, requests: Sequence[Request]) -> None:
    held: collections.deque = collections.deque()
    for request in requests:
        held.append(engine.submit(request))
        if len(held) >= _HELD * engine.recommender.tile:
            held.popleft().result()
    for future in held:
        future.result()


def _lone(engine: Engine, requests: Sequence[Request]) -> float:
    """Returns the median milliseconds of requests that have the engine to themselves."""
    engine.recommender.cache.clear()
    spent = []
    for request in requests:
        begin = time.perf_counter()
        engine.submit(request).result()
        spent.append(time.perf_counter() - begin)
    return 1e3 * float(np.median(spent))


def _tile_ms(server: serving.Server, histories: Sequence[np.ndarray], name: str) -> float:
    """Returns the median milliseconds of a tile's programs by themselves, one user in it."""
    from minirec.serving.query import Query

    recommender, answering = server.recommender, server.served
    allowed = np.ones(answering.catalogue.num_items, bool)
    spent = []
    for place in range(100):
        history = histories[place % len(histories)]
        query = Query(history, np.unique(history), name)
        begin = time.perf_counter()
        recommender.start(answering, [query], allowed)()
        spent.append(time.perf_counter() - begin)
    return 1e3 * float(np.median(spent))


def _timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _http_rows(
    workdir: Path, base: Path, name: str, engine_users: float
) -> Iterator[dict[str, Any]]:
    bodies = base / f"bodies_{name}.jsonl"
    _write_bodies(workdir, bodies, name)
    about = {"benchmark": "serving", "rank_by": name}
    with _served(workdir, base) as port:
        plan = {"port": port, "path": "/v1/recommend", "bodies": str(bodies)}
        lone = served.load(base, plan | {"clients": 1, "seconds": _SECONDS / 3})
        full = served.load(base, plan | {"clients": 16 * _HELD, "seconds": _SECONDS})
        most = full["per_second"]
        yield about | {
            "implementation": "http",
            "users_per_second": round(most, 1),
            "ratio_to_engine": round(most / engine_users, 3),
            "lone_ms": lone["answered_ms"],
            "saturated_ms": full["answered_ms"],
        }
        for share in _LOADS:
            found = served.load(base, plan | {"rate": share * most, "seconds": _LOAD_SECONDS})
            accepted = found["per_second"]
            late = found["answered_ms"].get("max", 0.0) > _DEADLINE_MS
            yield about | {
                "implementation": "http",
                "load": share,
                "accepted_per_second": round(accepted, 1),
                "accepted_of_saturation": round(accepted / most, 3),
                "statuses": found["statuses"],
                "answered_ms": found["answered_ms"],
                "p99_of_lone": round(
                    found["answered_ms"].get("p99", 0.0) / lone["answered_ms"]["p50"], 2
                ),
                "an_answer_was_late": late,
                "refused_ms": found["refused_ms"],
            }
    if name == MODEL:
        with _naive(workdir, base) as port:
            found = served.load(
                base, plan | {"port": port, "clients": 16 * _HELD, "seconds": _SECONDS}
            )
        yield about | {
            "implementation": "naive_handler",
            "users_per_second": round(found["per_second"], 1),
            "ratio": round(most / found["per_second"], 2),
        }


def _write_bodies(workdir: Path, path: Path, name: str) -> None:
    from pipelines.prepared import Prepared

    prepared = Prepared.load(workdir / "prepared")
    raw = prepared.raw_item_ids
    rows = np.arange(min(_USERS, len(prepared.views("test"))))
    lines = [
        json.dumps(
            {
                "history": [raw[item] for item in history],
                "num": _NUM,
                "rank_by": name,
                "deadline_ms": _DEADLINE_MS,
            }
        )
        for history in prepared.histories("test", rows)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _served(workdir: Path, base: Path) -> Iterator[int]:
    port = served.free_port()
    command = module_command(
        "launch.serve",
        f"--config={_CONFIG}",
        f"--workdir={workdir}",
        *_FLAGS,
        f"--http_port={port}",
        "--grpc_port=0",
        "--admin_port=0",
        "--nolog_requests",
        "--cache_mb=0",  # Each history comes again and again here, as it would not.
    )
    with served.serving_process(command, base):
        yield port


@contextlib.contextmanager
def _naive(workdir: Path, base: Path) -> Iterator[int]:
    port, path = served.free_port(), base / "naive.json"
    plan = {"config": _CONFIG, "changes": _CHANGES, "workdir": str(workdir), "port": port}
    path.write_text(json.dumps(plan), encoding="utf-8")
    with served.serving_process(module_command("launch.bench.naive_server", str(path)), base):
        time.sleep(1.0)
        yield port
