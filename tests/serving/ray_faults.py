"""Kills replicas and rolls catalogues under traffic: `python -m tests.serving.ray_faults`.

A script, not a test: it starts Ray on this machine with two replicas of the quickstart's run, which
`--workdir` holds, and takes some minutes. It prints a table of counts, and ends with 1 if a request
was lost that was not with a replica that was killed, or if an answer is not the offline search's on
the version that it names.
"""

import argparse
import collections
import os
import pathlib
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time

from tests.serving.faults import Answers, Server, compared, load, swapping

_REPLICA = re.compile(r'minirec_replica\{machine="[^"]*",process="(\d+)",replica="([^"]+)"\} 1')
_BATCH = 8


class RayServer(Server):
    """A server whose replicas Ray runs; it is asked to end, so that Ray ends with it."""

    def __init__(self, workdir, replicas):
        super().__init__(workdir, "--engine=ray", f"--replicas={replicas}", "--nolog_requests")

    def end(self):
        """Returns the exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.end()
        super().__exit__()

    def metrics(self):
        return self.ask("/metrics")[1].decode()

    def total(self, name):
        """The sum of a metric over replicas, or the front's."""
        lines = [line.rpartition(" ") for line in self.metrics().splitlines()]
        return sum(float(value) for left, _, value in lines if left.partition("{")[0] == name)

    def replicas(self):
        """The process of each replica that lives, by its name."""
        return {name: int(process) for process, name in _REPLICA.findall(self.metrics())}

    def kill_one(self, lot):
        """Kills a replica that holds requests, and returns its name."""
        name, process = lot.choice(sorted(self.replicas().items()))
        os.kill(process, signal.SIGSTOP)
        time.sleep(0.5)  # Whoever asks it meanwhile waits there.
        os.kill(process, signal.SIGKILL)
        return name

    def wait_for(self, count, gone, seconds=300.0):
        """Waits until so many replicas live, the one that is gone not among them."""
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            names = self.replicas()
            if len(names) == count and gone not in names:
                return time.monotonic() - begin
            time.sleep(0.5)
        raise TimeoutError(f"{count} replicas are not there after {seconds:g} s")


class Table:
    """What was counted, and what of it is wrong."""

    def __init__(self):
        self.wrong = 0

    def __call__(self, what, ok, **counts):
        self.wrong += not ok
        told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in counts.items())
        print(f"| {what} | {told} | {'ok' if ok else 'WRONG'} |", flush=True)


def same_replica(table, server, histories):
    """Each history is read once, however often it is asked for: it comes to the same replica."""
    before, times = server.total("minirec_cache_misses"), 5
    statuses = collections.Counter()
    for place in range(times * len(histories)):
        statuses[server.recommend(histories[place % len(histories)])[0]] += 1
    read = server.total("minirec_cache_misses") - before
    table(
        f"{len(histories)} histories, each asked for {times} times",
        statuses == {200: times * len(histories)} and read == len(histories),
        answered=statuses[200],
        histories_read=int(read),
    )


def killed(table, server, histories, seconds, lot):
    """kill -9 of a replica under traffic, on the same catalogue throughout."""
    statuses, gone = collections.Counter(), []
    lost, retried = (
        server.total("minirec_front_lost_total"),
        server.total("minirec_front_retried_total"),
    )
    killer = threading.Timer(seconds / 3, lambda: gone.append(server.kill_one(lot)))
    killer.start()

    def heard(place, status, answer):
        statuses[status] += 1

    load(server, histories, seconds, threads=8, heard=heard)
    killer.join()
    lost = server.total("minirec_front_lost_total") - lost
    retried = server.total("minirec_front_retried_total") - retried
    failed = statuses.total() - statuses[200]
    # Each call that was lost was with the replica, or came just when it ended; what is lost a
    # second time gets 503, and there is no other reason for one.
    table(
        "kill -9 of one of two replicas under traffic",
        statuses[200] > 0
        and failed == statuses[503] == lost - retried
        and retried > 0
        and len(gone) == 1,
        asked=statuses.total(),
        answered=statuses[200],
        lost_with_it=int(lost),
        asked_again=int(retried),
        failed=failed,
        until_another_serves_s=round(server.wait_for(2, gone[0]), 1),
    )


class Batches:
    """Asks for several histories at a time, and looks whether their answers are of one version."""

    def __init__(self, server, histories, answers, lock):
        self._server, self._histories = server, histories
        self._answers, self._lock = answers, lock
        self._stop, self.asked, self.mixed, self.failed = threading.Event(), 0, 0, 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _run(self):
        lot = random.Random(7)
        while not self._stop.is_set():
            places = [lot.randrange(len(self._histories)) for _ in range(_BATCH)]
            requests = [{"history": self._histories[place], "num": 10} for place in places]
            status, found = self._server.ask("/v1/recommend:batch", {"requests": requests})
            self.asked += 1
            if status != 200:
                self.failed += 1
                continue
            entries = [entry.get("answer") for entry in found["answers"]]
            self.failed += any(entry is None for entry in entries)
            entries = [
                (place, one) for place, one in zip(places, entries, strict=True) if one is not None
            ]
            self.mixed += len({one["catalogue_version"] for _, one in entries}) > 1
            with self._lock:
                for place, one in entries:
                    self._answers(place, 200, one)


def rolled(table, server, workdir, histories, seconds, lot):
    """A version every two seconds under traffic; then the same while a replica is killed."""
    withdrawn, undisturbed, disturbed = {}, Answers(), Answers()
    lock, first = threading.Lock(), server.total("minirec_front_rolls_total")
    compiled = server.total("minirec_compilations")

    def under(answers, seconds):
        def heard(*answer):
            with lock:
                answers(*answer)

        with Batches(server, histories, answers, lock) as batches:
            load(server, histories, seconds, threads=4, heard=heard)
        return batches

    with swapping(server, 2.0, withdrawn):
        batches = under(undisturbed, seconds)
        compiled = server.total("minirec_compilations") - compiled
        rolls = server.total("minirec_front_rolls_total") - first
        retried = server.total("minirec_front_retried_total")
        lost = server.total("minirec_front_lost_total")

        def kill_and_wait():
            time.sleep(2.0)  # Under traffic.
            server.wait_for(2, server.kill_one(lot))

        back = threading.Thread(target=kill_and_wait)
        back.start()
        more = under(disturbed, 5.0)
        while back.is_alive():
            again = under(disturbed, 5.0)
            more.asked, more.mixed = more.asked + again.asked, more.mixed + again.mixed
        again = under(disturbed, 5.0)  # With the new replica.
        more.asked, more.mixed = more.asked + again.asked, more.mixed + again.mixed
        lost = server.total("minirec_front_lost_total") - lost
        retried = server.total("minirec_front_retried_total") - retried
        names = server.replicas()
    checked, wrong = compared(workdir, histories, undisturbed, withdrawn)
    table(
        "a catalogue rolled every two seconds under traffic",
        not (undisturbed.failed or batches.failed or batches.mixed or wrong or compiled)
        and rolls > 1
        and checked,
        answers=undisturbed.statuses[200],
        failed=undisturbed.failed + batches.failed,
        rolls=int(rolls),
        batches=batches.asked,
        batches_of_mixed_versions=batches.mixed,
        different_answers_compared=checked,
        wrong=wrong,
        compilations=int(compiled),
    )
    checked, wrong = compared(workdir, histories, disturbed, withdrawn)
    table(
        "the same, with kill -9 of a replica, until another has joined",
        not (wrong or more.mixed)
        and disturbed.failed == disturbed.statuses[503] <= lost - retried
        and retried > 0
        and checked
        and len(names) == 2,
        answers=disturbed.statuses[200],
        failed=disturbed.failed,
        lost_with_it=int(lost),
        asked_again=int(retried),
        batches=more.asked,
        batches_of_mixed_versions=more.mixed,
        different_answers_compared=checked,
        wrong=wrong,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", default="quickstart")
    parser.add_argument("--seconds", type=float, default=15.0, help="Of traffic in each part.")
    given = parser.parse_args()
    from pipelines.prepared import Prepared

    table, lot = Table(), random.Random(11)
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder) / "W"
        shutil.copytree(given.workdir, workdir)
        shutil.rmtree(workdir / "runs" / "quickstart" / "serving", ignore_errors=True)
        prepared = Prepared.load(workdir / "prepared")
        raw = prepared.raw_item_ids
        histories = [
            [raw[item] for item in history] for history in prepared.histories("test", range(40))
        ]
        histories = [list(one) for one in dict.fromkeys(map(tuple, histories))]
        print("| what | counts | |\n| --- | --- | --- |", flush=True)
        with RayServer(workdir, 2) as server:
            table("two replicas on one machine", True, ready_after_s=round(server.seconds, 1))
            same_replica(table, server, histories)
            killed(table, server, histories, given.seconds, lot)
            rolled(table, server, workdir, histories, given.seconds, lot)
            stopper = threading.Timer(1.0, server.process.send_signal, [signal.SIGTERM])
            stopper.start()
            answers = load(server, histories, 3.0, threads=4)
            code = server.process.wait(120)
            statuses = collections.Counter(status for _, status, _ in answers)
            table(
                "SIGTERM under traffic",
                code == 0 and set(statuses) <= {200, 503, 0},
                exit_code=code,
                answered=statuses[200],
                refused=statuses[503],
                not_connected=statuses[0],
            )
        if table.wrong:
            shutil.copy(workdir / "server.log", "server.log")
    sys.exit(1 if table.wrong else 0)


if __name__ == "__main__":
    main()
