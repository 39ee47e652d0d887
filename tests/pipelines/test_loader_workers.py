"""Many threads and processes: one stream, globally shuffled, whose position none changes."""

import concurrent.futures
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest
from absl import flags

from pipelines.batches.train_batches import BatchConfig, train_batches
from pipelines.synthetic import synthetic_log

NUM_ITEMS, BATCH_SIZE = 50, 32
CONFIGS = {
    "windows": BatchConfig(BATCH_SIZE, 5, num_threads=0),
    "histories_packed": BatchConfig(
        BATCH_SIZE, 5, examples="histories", pack=True, row_items=8, num_threads=0
    ),
}
MANY_THREADS = {"num_threads": 16, "prefetch": 40}
ONE_WORKER = {"num_workers": 1, "prefetch": 1}
TWO_WORKERS = {"num_workers": 2, "num_threads": 2, "prefetch": 2}


def make(name="windows", process_index=0, process_count=1, seed=5, **change):
    if change.get("num_workers") and not flags.FLAGS.is_parsed():
        flags.FLAGS(["test"])
    return train_batches(
        synthetic_log(300, num_items=NUM_ITEMS),
        dataclasses.replace(CONFIGS[name], **change),
        seed=seed,
        process_index=process_index,
        process_count=process_count,
    )


def digest(batches):
    found = hashlib.sha256()
    for batch in batches:
        for key, value in sorted(batch.items()):
            found.update(f"{key}{value.dtype}{value.shape}".encode())
            found.update(np.ascontiguousarray(value))
    return found.hexdigest()


@pytest.mark.parametrize("name", CONFIGS)
def test_sixteen_threads_make_the_same_epochs_as_none(name):
    alone, many = make(name), make(name, **MANY_THREADS)
    count = 2 * alone.batches_per_epoch
    iterator = iter(many)
    assert digest(itertools.islice(iterator, count)) == digest(map(alone.batch_at, range(count)))
    assert iterator.get_state()["next_batch"] == count
    iterator.close()


def test_sixteen_readers_of_one_stream_do_not_disturb_each_other():
    batches = make("histories_packed")
    count = batches.batches_per_epoch
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(count), 4)).tolist()
    with concurrent.futures.ThreadPoolExecutor(16) as readers:
        found = list(readers.map(lambda index: digest([batches.batch_at(index)]), order))
    expected = [digest([batches.batch_at(index)]) for index in range(count)]
    assert found == [expected[index] for index in order]


@pytest.mark.parametrize("threads", [MANY_THREADS, {"num_threads": 0}])
def test_an_epoch_is_a_permutation_of_all_rows_and_spreads_every_batch_over_them(threads):
    batches = make(**threads)
    num_rows = batches.num_rows
    needed = -(-2 * num_rows // BATCH_SIZE)
    iterator = iter(batches)
    rows = np.concatenate([next(iterator)["rows"] for _ in range(needed)])
    iterator.close()
    first, second = rows[:num_rows], rows[num_rows : 2 * num_rows]
    for epoch in (first, second):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(num_rows))
        # Six standard errors of a correlation of independent ranks.
        assert abs(np.corrcoef(epoch, np.arange(num_rows))[0, 1]) < 6 / np.sqrt(num_rows)
        assert abs(np.corrcoef(epoch[1:], epoch[:-1])[0, 1]) < 6 / np.sqrt(num_rows)
        whole = epoch[: len(epoch) // BATCH_SIZE * BATCH_SIZE].reshape(-1, BATCH_SIZE)
        # A shuffle through a buffer would keep a batch's rows near each other.
        assert (np.ptp(whole, axis=1) > num_rows / 2).all()
    assert abs(np.corrcoef(first, second)[0, 1]) < 6 / np.sqrt(num_rows)


def test_a_position_in_mid_epoch_goes_from_threads_to_workers_and_back():
    """Sixteen threads, two workers, one, and a thread: each goes on where the last one left."""
    name, alone = "histories_packed", make("histories_packed")
    state = iter(alone).get_state()
    start = 0
    for number, workers in (
        (7, MANY_THREADS),
        (8, TWO_WORKERS),
        (3, ONE_WORKER),
        (5, {"num_threads": 1}),
    ):
        iterator = iter(make(name, **workers))
        iterator.set_state(json.loads(json.dumps(state)))
        found = digest(itertools.islice(iterator, number))
        state = iterator.get_state()
        # Batches that were made ahead and not taken must not count.
        iterator.close()
        assert found == digest(map(alone.batch_at, range(start, start + number)))
        start += number
        assert state == iter(alone).get_state() | {"next_batch": start}
    assert start < alone.batches_per_epoch


def test_processes_that_share_nothing_make_slices_of_one_global_batch():
    """Interpreters of their own, as on several machines, one with threads and one without."""
    first, number, count = 11, 6, 2
    saved = json.dumps(iter(make(process_count=count)).get_state() | {"next_batch": first})
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(index), str(count), str(threads), str(number), saved],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
        )
        for index, threads in enumerate((0, 16))
    ]
    whole = [make().batch_at(index) for index in range(first, first + number)]
    local = BATCH_SIZE // count
    for index, process in enumerate(processes):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        mine = slice(index * local, (index + 1) * local)
        expected = digest({key: value[mine] for key, value in batch.items()} for batch in whole)
        assert json.loads(out.splitlines()[-1]) == [expected, first + number]


def test_workers_outlive_signals_to_all_and_end_with_a_killed_program():
    with subprocess.Popen(
        [sys.executable, __file__, "killed"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
    ) as process:
        # The output ends when the last process that holds it has ended, the workers included.
        output, _ = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    alone = make()
    assert output.decode().strip() == digest(map(alone.batch_at, range(20)))


@pytest.mark.parametrize(("was", "now"), [(1, 2), (2, 1), (4, 2)])
@pytest.mark.parametrize("workers", [{}, MANY_THREADS])
def test_another_number_of_processes_is_an_error_with_both(was, now, workers):
    state = iter(make(process_count=was)).get_state() | {"next_batch": 3}
    iterator = iter(make(process_count=now, **workers))
    expected = next(iter(make(process_count=now)))
    with pytest.raises(ValueError, match=f"process_count was {was} when .* and is {now} now"):
        iterator.set_state(state)
    assert digest([next(iterator)]) == digest([expected]), "a refused state must change nothing"
    iterator.close()


def signal_and_die():
    """Goes on with two workers after signals to all processes, and is killed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    iterator = iter(make(**TWO_WORKERS))
    found = [next(iterator)]
    for number in (signal.SIGINT, signal.SIGTERM):
        os.killpg(0, number)
    found += itertools.islice(iterator, 19)
    print(digest(found), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def main():
    if sys.argv[1:] == ["killed"]:
        signal_and_die()
    index, count, threads, number, state = sys.argv[1:]
    iterator = iter(
        make(process_index=int(index), process_count=int(count), num_threads=int(threads))
    )
    iterator.set_state(json.loads(state))
    found = digest(itertools.islice(iterator, int(number)))
    print(json.dumps([found, iterator.get_state()["next_batch"]]))


if __name__ == "__main__":
    main()
