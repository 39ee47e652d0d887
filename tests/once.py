"""What is dear to make and read only is made by one of the test workers, for all of them."""

import fcntl
import os
import pathlib
import pickle
import shutil


def made_once(tmp_path_factory, name, make):
    """Returns a folder and what `make(folder)` returned when it filled it, once a test run.

    The workers of pytest-xdist have folders of their own below one; there it lies. Nobody may
    change it: who wants to takes a copy.
    """
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    folder, result = place / f"once_{name}", place / f"once_{name}.pickle"
    with open(place / f"once_{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not result.exists():
            shutil.rmtree(folder, ignore_errors=True)  # Of a worker in which it failed.
            folder.mkdir()
            made = pickle.dumps(make(folder))
            pathlib.Path(f"{result}.part").write_bytes(made)
            os.replace(f"{result}.part", result)
        return folder, pickle.loads(result.read_bytes())
