"""A disk that takes no more ends a run in one error, which says where."""

import errno
import gc
import logging
import resource

import pytest

from minirec.training import train
from minirec.training.failed_saves import one_error
from minirec.training.metrics_log import MetricsLog
from minirec.training.step_folders import StepFolders
from tests.training.helpers import config, fresh
from tests.training.tiny import TinyTask, stages


def test_a_checkpoint_that_cannot_be_written_is_one_error_that_names_it(
    tmp_path, caplog, monkeypatch
):
    save = StepFolders.save

    def on_a_full_disk(self, step, **items):
        """A disk with room for 100 bytes a file, for the time of a save."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            save(self, step, **items)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    with monkeypatch.context() as patch:
        patch.setattr(StepFolders, "save", on_a_full_disk)
        with pytest.raises(OSError, match="File too large") as raised:
            train(fresh(), TinyTask(), stages(4), config(tmp_path))
    assert raised.value.filename == str(tmp_path / "checkpoints" / "last" / "4")
    gc.collect()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    # With room again the same run goes on, and nothing is left of the failed save.
    assert train(fresh(), TinyTask(), stages(4), config(tmp_path)).step == 4
    assert [path.name for path in (tmp_path / "checkpoints" / "last").iterdir()] == ["4"]


def test_what_saves_log_is_told_where_they_do_not_fail(tmp_path, caplog):
    with one_error(tmp_path):
        logging.getLogger("absl").error("odd")
        assert not caplog.records
    assert [record.message for record in caplog.records] == ["odd"]
    with pytest.raises(ValueError, match="another"), one_error(tmp_path):
        raise ValueError("another")


@pytest.mark.parametrize("part", ["metrics.jsonl", "tensorboard"])
def test_a_log_that_cannot_be_written_is_named(part, tmp_path):
    log = MetricsLog(tmp_path, keep_bytes=0, step=0, tensorboard=True)

    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

        flush = close = lambda self: None

    full = Full()
    if part == "tensorboard":
        log._events._file._py_recordio_writer._writer = full
    else:
        log._file.close()
        log._file = full
    with pytest.raises(OSError, match="No space left") as raised:
        for step in range(50):  # More than TensorBoard's queue holds.
            log.write({"kind": "train", "step": step, "loss": 1.0})
        log.sync()
    assert raised.value.filename == str(tmp_path / part)
    log._file = None  # It can take no more.
    log.close()
