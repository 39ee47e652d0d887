"""Attacks a server that serves: `python -m tests.serving.faults --workdir=quickstart`.

A script, not a test: it takes some minutes. `--workdir` holds a run of the quickstart. It prints a
line a fault, with counts, and ends with 1 if anything was lost, half loaded or unexplained.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from tests.ports import free_port

ROOT = pathlib.Path(__file__).parents[2]


class Server:
    """A server in a process of its own."""

    def __init__(self, workdir, *flags, environment=None):
        self.port, self.admin_port = free_port(), free_port()
        # Open for as long as the server is.
        self.log = (pathlib.Path(workdir) / "server.log").open("a")
        begin = time.monotonic()
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "launch.serve", "--config=quickstart",
                f"--workdir={workdir}", f"--http_port={self.port}", "--grpc_port=0",
                f"--admin_port={self.admin_port}", "--deadline_ms=20000", *flags,
            ],
            stdout=subprocess.PIPE, stderr=self.log, text=True, cwd=ROOT,
            env=os.environ | (environment or {}),
        )  # fmt: skip
        assert self.process.stdout.readline(), "the server did not start: see server.log"
        self.seconds = time.monotonic() - begin

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.log.close()

    def ask(self, route, body=None, *, admin=False, timeout=60):
        """Returns (status, JSON); status 0 where the connection broke."""
        port = self.admin_port if admin else self.port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        try:
            method = "GET" if body is None else "POST"
            connection.request(method, route, None if body is None else json.dumps(body))
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if text[:1] in b"{[" else text
        except (OSError, http.client.HTTPException):
            return 0, None
        finally:
            connection.close()

    def recommend(self, history, **more):
        return self.ask("/v1/recommend", {"history": history, "num": 10, **more})

    def metric(self, name):
        text = self.ask("/metrics")[1].decode()
        lines = (line.split() for line in text.splitlines() if line.startswith(f"{name} "))
        return next(float(value) for _, value in lines)


@dataclasses.dataclass
class Report:
    """What was tried, and what went wrong."""

    wrong: int = 0

    def __call__(self, fault, ok, **counts):
        self.wrong += not ok
        print(json.dumps({"fault": fault, "ok": bool(ok), **counts}), flush=True)


def load(server, histories, seconds, threads=8, rate=None, heard=None, stop=None):
    """Asks from many threads, and returns the answers as (number of the history, status, JSON).

    With `rate`, so many requests a second by all threads together, as far as they are answered in
    time. With `heard`, each answer is passed to that instead, under a lock, and none is kept. An
    event `stop` ends it before the seconds are over.
    """
    answers, lock, until = [], threading.Lock(), time.monotonic() + seconds
    heard = heard or (lambda *answer: answers.append(answer))
    stop = stop or threading.Event()

    def client(seed):
        lot, due = random.Random(seed), time.monotonic()
        while time.monotonic() < until and not stop.is_set():
            if rate is not None:
                due = max(due + lot.expovariate(rate / threads), time.monotonic() - 1.0)
                time.sleep(max(0.0, due - time.monotonic()))
            place = lot.randrange(len(histories))
            status, answer = server.recommend(histories[place])
            with lock:
                heard(place, status, answer)
            if status == 0:
                time.sleep(0.01)

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        list(pool.map(client, range(threads)))
    return answers


def seventy_percent(server, histories, seconds=5.0):
    """Returns the requests a second that are .7 of what a saturated server answers."""
    return 0.7 * len(load(server, histories, seconds, threads=12)) / seconds


def items(answer):
    return [(item["item_id"], item["score"]) for item in answer["items"]]


def same_bits(report, workdir, histories):
    """A thousand requests alone, then in company: the same answers, to the bit."""
    with Server(workdir, "--cache_mb=0") as server:
        asked = [histories[place % len(histories)] for place in range(1000)]
        alone = [items(server.recommend(history)[1]) for history in asked]
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            order = random.Random(1).sample(range(1000), 1000)
            together = dict(
                zip(
                    order,
                    pool.map(lambda p: items(server.recommend(asked[p])[1]), order),
                    strict=True,
                )
            )
        differing = sum(together[place] != alone[place] for place in range(1000))
        report("1,000 requests alone and in random company", differing == 0, differing=differing)


KILLS = 10


def killed(report, workdir, histories):
    """kill -9 under load while versions are written: the last one that was whole is served again.

    Each kill comes at a random moment of a change that is under way. What is served after it is
    what was answered last, or, where its file was whole by then, the change under way.
    """
    lot, raw = random.Random(5), [f"i{number:05}" for number in range(1000)]
    withdrawn, pending = frozenset(), None
    counts = collections.Counter()
    restarts = []
    for number in range(KILLS + 1):
        with Server(workdir) as server:
            restarts.append(server.seconds)
            gone = _withdrawn(server, withdrawn | (pending or frozenset()))
            counts["before"] += number > 0 and gone == withdrawn
            counts["after"] += number > 0 and gone == pending
            counts["wrong"] += gone not in (withdrawn, pending)
            for history in histories[:5]:
                shown = {item for item, _ in items(server.recommend(history)[1])}
                counts["wrong"] += bool(shown & gone)
            if number == KILLS:
                break
            versions = {_version(server): gone}
            withdrawn, pending = gone, None
            stop, answers = threading.Event(), []
            asking = threading.Thread(
                target=load,
                args=(server, histories, 600.0, 4),
                kwargs={"heard": lambda *answer, to=answers: to.append(answer), "stop": stop},
            )
            asking.start()
            took = []
            for is_last in (False, False, True):
                pending = frozenset(lot.sample(raw, 20))
                body = {"withdraw": sorted(pending), "restore": sorted(withdrawn - pending)}
                if is_last:
                    killer = threading.Timer(lot.uniform(0, 1.1 * max(took)), server.process.kill)
                    killer.start()
                begin = time.monotonic()
                status, changed = server.ask("/admin/catalogue", body, admin=True)
                took.append(time.monotonic() - begin)
                if status == 200:
                    versions[changed["catalogue_version"].split(".")[0]] = pending
                    withdrawn, pending = pending, None
                    counts["changes"] += 1
            killer.join()
            server.process.wait()
            stop.set()
            asking.join()
        for _, status, answer in answers:
            if status == 200:
                version = answer["catalogue_version"].split(".")[0]
                hidden = versions.get(version, pending or frozenset())
                counts["wrong"] += bool({item for item, _ in items(answer)} & hidden)
            else:
                counts["wrong"] += status != 0
        counts["answers"] += sum(status == 200 for _, status, _ in answers)
        counts["partial"] += _has_partial(pathlib.Path(workdir) / "runs" / "quickstart" / "serving")
    report(
        f"kill -9 under load while versions are written, {KILLS} times, and restart",
        counts["wrong"] == 0 and counts["before"] + counts["after"] == KILLS,
        wrong=counts["wrong"],
        changes=counts["changes"],
        answers=counts["answers"],
        served_what_was_answered_last=counts["before"],
        served_the_change_under_way=counts["after"],
        left_half_done=counts["partial"],
        restart_s=round(sorted(restarts[1:])[KILLS // 2], 1),
    )


def _version(server):
    return server.ask("/v1/status")[1]["catalogue_version"].split(".")[0]


def _withdrawn(server, among):
    """The items that are not listed; None where others than those of `among` are not."""
    gone = frozenset(one for one in among if not server.ask(f"/v1/items/{one}")[1]["listed"])
    return gone if server.ask("/v1/status")[1]["num_listed"] == 1000 - len(gone) else None


def _has_partial(folder):
    """Whether something lies there that was not written to its end, or not taken over."""
    (place,) = folder.iterdir()
    current = json.loads((place / "current.json").read_text())["number"]
    names = [path.name for path in place.iterdir()]
    known = {"current.json", "stock.jsonl"}
    return any(
        name not in known and not (name.startswith("catalogue-") and int(name[-11:-5]) <= current)
        for name in names
    )


def restarted(report, workdir, histories):
    """A restart with compiled programs kept, beside a start that has none of them."""
    with tempfile.TemporaryDirectory() as empty:
        environment = {"JAX_COMPILATION_CACHE_DIR": empty}
        with Server(workdir, environment=environment) as server:
            cold = server.seconds
        again = []
        for _ in range(3):
            with Server(workdir, environment=environment) as server:
                again.append(server.seconds)
    restart = sorted(again)[1]
    report(
        "a restart beside a cold start",
        restart <= 15.0 and restart <= 0.5 * cold,
        cold_s=round(cold, 1),
        restart_s=[round(seconds, 1) for seconds in again],
        of_cold=round(restart / cold, 2),
    )


def terminated(report, workdir, histories):
    with Server(workdir) as server:
        killer = threading.Timer(1.5, server.process.send_signal, [signal.SIGTERM])
        killer.start()
        answers = load(server, histories, 3.0)
        code = server.process.wait(60)
    statuses = {status for _, status, _ in answers}
    report(
        "SIGTERM under load",
        code == 0 and statuses <= {200, 503, 0},
        code=code,
        answered=sum(status == 200 for _, status, _ in answers),
        statuses=sorted(statuses),
    )


def bad_catalogues(report, workdir, histories):
    folder = pathlib.Path(workdir) / "bad"
    folder.mkdir(exist_ok=True)
    sids = pathlib.Path(workdir) / "sids" / "sids.json"
    good = sids.read_text()
    wrong = {
        "corrupt": good.replace('"<a_', '"<z_', 5),
        "truncated": good[: len(good) // 2],
        "of another vocabulary": good.replace('"<b_', '"<b_9', 50),
        "empty": "{}",
        "no text": "\0" * 100,
    }
    with Server(workdir) as server:
        before = server.ask("/v1/status")[1]["catalogue_version"]
        first = items(server.recommend(histories[0])[1])
        for name, text in wrong.items():
            path = folder / "sids.json"
            path.write_text(text)
            status, answer = server.ask("/admin/catalogue", {"sids": str(path)}, admin=True)
            after = server.ask("/v1/status")[1]["catalogue_version"]
            same = items(server.recommend(histories[0])[1]) == first
            report(
                f"a catalogue that is {name}",
                status == 422 and after == before and same,
                status=status,
                says=str(answer)[:120],
            )


def full_disk(report, workdir, histories):
    """A file system of half a megabyte under the versions, where one may be mounted."""
    folder = pathlib.Path(workdir) / "runs" / "quickstart" / "serving"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", str(folder)],
        capture_output=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        print(json.dumps({"fault": "a disk that fills", "left_out": "nothing may be mounted here"}))
        return
    try:
        with Server(workdir) as server:
            statuses = []
            for place in range(6):
                status, _ = server.ask(
                    "/admin/catalogue", {"withdraw": [f"i{place + 1:05}"]}, admin=True
                )
                statuses.append(status)
            still = server.recommend(histories[0])[0]
            served = server.ask("/v1/status")[1]["catalogue_version"].split(".")[0]
        with Server(workdir) as server:
            again = server.ask("/v1/status")[1]["catalogue_version"].split(".")[0]
        ok = 507 in statuses and still == 200 and again == served
        report(
            "a disk that fills while catalogues are written",
            ok,
            statuses=statuses,
            served=served,
            after_restart=again,
        )
    finally:
        subprocess.run(["umount", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def lost_checkpoint(report, workdir, histories):
    """The checkpoint goes while its model serves: answers go on, a reload says what is wrong."""
    checkpoints = pathlib.Path(workdir) / "runs" / "quickstart" / "checkpoints"
    away = checkpoints.with_name("away")
    with Server(workdir) as server:
        first = items(server.recommend(histories[0])[1])
        checkpoints.rename(away)
        try:
            status, answer = server.ask("/admin/model", {}, admin=True)
            same = items(server.recommend(histories[0])[1]) == first
        finally:
            away.rename(checkpoints)
        report(
            "a checkpoint that has gone",
            status in (422, 507) and same,
            status=status,
            says=str(answer)[:120],
        )


def rude_clients(report, workdir, histories):
    with Server(workdir) as server:
        usual = min(timed(server, histories[0]) for _ in range(5))
        idle, number = [], min(2000, handles() - 300)
        for _ in range(number):
            one = socket.create_connection(("127.0.0.1", server.port))
            idle.append(one)
        during = min(timed(server, histories[0]) for _ in range(5))
        half = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
        for one in half:
            one.sendall(b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{")
        with_half = min(timed(server, histories[0]) for _ in range(5))
        for one in half:
            one.settimeout(30)
        said = [one.recv(200)[:12] for one in half]
        closed = 0
        for one in idle:
            one.settimeout(30)
            closed += one.recv(1) == b""
        ok = closed == number and all(line.endswith(b"408") for line in said)
        report(
            f"{number:,} idle connections and 50 half-sent requests",
            ok,
            idle_closed=closed,
            half_refused=sum(line.endswith(b"408") for line in said),
            lone_ms=[round(1e3 * s, 1) for s in (usual, during, with_half)],
        )
        big = socket.create_connection(("127.0.0.1", server.port))
        big.sendall(b"POST /v1/recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 10000000\r\n\r\n")
        told = big.recv(100)
        report("a body of 10 MB", b" 413" in told, says=told[:20].decode())
        slow = socket.create_connection(("127.0.0.1", server.port))
        body = json.dumps({"requests": [{"history": histories[0], "explain": True}] * 64}).encode()
        slow.sendall(
            b"POST /v1/recommend:batch HTTP/1.1\r\nhost: x\r\ncontent-length: "
            + str(len(body)).encode()
            + b"\r\n\r\n"
            + body
        )
        reading = [slow.recv(64) for _ in range(20)]
        others = min(timed(server, histories[0]) for _ in range(5))
        report("a slow reader", bool(reading[0]), others_ms=round(1e3 * others, 1))


def handles():
    """Allows this process, and those that it starts, as many open files as it may, and counts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 100_000 if hard == resource.RLIM_INFINITY else min(hard, 100_000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def timed(server, history):
    begin = time.monotonic()
    status, _ = server.recommend(history)
    assert status == 200
    return time.monotonic() - begin


class Answers:
    """What was answered, by version, each different answer once."""

    def __init__(self):
        self.statuses = collections.Counter()
        self.found = collections.defaultdict(lambda: collections.defaultdict(set))

    def __call__(self, place, status, answer):
        self.statuses[status] += 1
        if status == 200:
            version = answer["catalogue_version"].split(".")[0]
            self.found[version][place].add(tuple(items(answer)))

    @property
    def failed(self):
        return sum(self.statuses.values()) - self.statuses[200]


@contextlib.contextmanager
def swapping(server, seconds, withdrawn):
    """Swaps the catalogue every so many seconds, and writes down what each version lacks."""
    lot, stop = random.Random(3), threading.Event()
    withdrawn[_version(server)] = gone = set()

    def swap():
        nonlocal gone
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            due += seconds
            new = {f"i{lot.randrange(1000):05}" for _ in range(20)}
            body = {"withdraw": sorted(new), "restore": sorted(gone - new)}
            status, answer = server.ask("/admin/catalogue", body, admin=True)
            assert status == 200, answer
            gone = new
            withdrawn[answer["catalogue_version"].split(".")[0]] = new

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def compared(workdir, histories, answers, withdrawn):
    """Compares answers with the offline search on the version that each names.

    Returns how many different ones were compared, and how many of them are others; those of a
    version that nobody has asked for are.
    """
    import numpy as np

    from launch.wiring import serving
    from launch.wiring.program import Job, load_config_module
    from minirec.serving.catalogue import Listing
    from minirec.serving.query import Query
    from minirec.serving.recommender import answered

    config = load_config_module("quickstart").get_config()
    work = pathlib.Path(workdir)
    offline = serving.load(Job(config, work, work / "runs" / config.name), like=True)
    table = offline.served.catalogue
    wrong = checked = 0
    for version, found in answers.found.items():
        checked += sum(map(len, found.values()))
        if version not in withdrawn:
            wrong += sum(map(len, found.values()))
            continue
        listed = np.array([raw not in withdrawn[version] for raw in table.raw_item_ids])
        listing = Listing(offline.listing.table, offline.listing.titles, listed)
        catalogue = offline.catalogue(int(version), listing)
        served = offline.version(catalogue, offline.served)
        queries = []
        for place in found:
            history = np.array([table.item_of[raw] for raw in histories[place]], np.int32)
            queries.append(Query(history, np.unique(history), served.rankings[0]))
        expected = answered(offline.recommender, served, queries, listed)
        for place, one in zip(found, expected, strict=True):
            want = tuple(
                (table.raw_item_ids[item], round(float(score), 6) if np.isfinite(score) else None)
                for item, score in zip(one.item[:10], one.score[:10], strict=True)
            )
            wrong += sum(got != want for got in found[place])
    return checked, wrong


def swaps(report, workdir, histories, seconds):
    """A swap a second at .7 of capacity: every answer is the offline search's on its version."""
    withdrawn, answers = {}, Answers()
    with Server(workdir) as server:
        rate = seventy_percent(server, histories)
        before = server.metric("minirec_compilations")
        with swapping(server, 1.0, withdrawn):
            load(server, histories, seconds, threads=12, rate=rate, heard=answers)
        compiled = server.metric("minirec_compilations") - before
        invalid = server.metric("minirec_invalid_items_total")
    checked, wrong = compared(workdir, histories, answers, withdrawn)
    ok = not (answers.failed or wrong or invalid or compiled) and checked
    report(
        "a swap a second under load",
        ok and len(withdrawn) > 0.8 * seconds,
        seconds=seconds,
        asked_per_second=round(rate, 1),
        answers=answers.statuses.total(),
        failed=answers.failed,
        versions=len(withdrawn),
        checked=checked,
        wrong=wrong,
        invalid=invalid,
        compilations=compiled,
    )


def soak(report, workdir, histories, seconds):
    """Load of .7 for long, a swap every ten seconds: memory and handles stay, answers are right.

    Memory must stay within 2% of what it is after five minutes (of a shorter soak: halfway), and
    open files within the client's connections.
    """
    threads, settles = 12, min(300.0, seconds / 2)
    withdrawn, answers = {}, Answers()
    with Server(workdir) as server:
        rate = seventy_percent(server, histories)
        stop, sizes, begin = threading.Event(), [], time.monotonic()

        def watch():
            process = pathlib.Path(f"/proc/{server.process.pid}")
            while not stop.wait(5.0):
                pages = int((process / "statm").read_text().split()[1])
                memory = pages * resource.getpagesize() / 2**20
                files = len(list((process / "fd").iterdir()))
                sizes.append((time.monotonic() - begin, memory, files))

        thread = threading.Thread(target=watch)
        thread.start()
        with swapping(server, 10.0, withdrawn):
            load(server, histories, seconds, threads=threads, rate=rate, heard=answers)
        stop.set()
        thread.join()
        invalid = server.metric("minirec_invalid_items_total")
    checked, wrong = compared(workdir, histories, answers, withdrawn)
    settled = [(memory, files) for at, memory, files in sizes if at >= settles]
    memory, handles = zip(*settled, strict=True)
    growth = max(memory) / memory[0] - 1
    report(
        "soak",
        not (answers.failed or wrong or invalid)
        and checked
        and growth < 0.02
        and max(handles) <= handles[0] + threads,
        seconds=seconds,
        asked_per_second=round(rate, 1),
        answers=answers.statuses.total(),
        failed=answers.failed,
        versions=len(withdrawn),
        checked=checked,
        wrong=wrong,
        invalid=invalid,
        settled_after_s=settles,
        megabytes=[round(size, 1) for size in (memory[0], max(memory), memory[-1])],
        handles=[handles[0], max(handles), handles[-1]],
        growth=round(growth, 4),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", default="quickstart")
    parser.add_argument("--swap_s", type=float, default=60.0)
    parser.add_argument("--soak_s", type=float, default=0.0)
    parser.add_argument("--only", nargs="*", help="Names of functions here; default: all but soak.")
    given = parser.parse_args()
    from pipelines.prepared import Prepared

    report = Report()
    handles()
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder) / "W"
        shutil.copytree(given.workdir, workdir)
        shutil.rmtree(workdir / "runs" / "quickstart" / "serving", ignore_errors=True)
        prepared = Prepared.load(workdir / "prepared")
        raw = prepared.raw_item_ids
        histories = [
            [raw[item] for item in history] for history in prepared.histories("test", range(200))
        ]
        if given.soak_s:
            soak(report, workdir, histories, given.soak_s)
        else:
            for attack in (
                same_bits, bad_catalogues, restarted, killed, terminated, lost_checkpoint,
                rude_clients, full_disk,
            ):  # fmt: skip
                if not given.only or attack.__name__ in given.only:
                    attack(report, workdir, histories)
            shutil.rmtree(workdir / "runs" / "quickstart" / "serving", ignore_errors=True)
            if not given.only or "swaps" in given.only:
                swaps(report, workdir, histories, given.swap_s)
        if report.wrong:
            shutil.copy(workdir / "server.log", "server.log")
    sys.exit(1 if report.wrong else 0)


if __name__ == "__main__":
    main()
