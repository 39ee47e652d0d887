"""A program that dies at one of its file operations, played in the test's own process."""

import contextlib
import os
import pathlib
import shutil


class PowerCut(BaseException):
    """No handler of errors stops it, as none stops a kill."""


@contextlib.contextmanager
def power_cut(monkeypatch, at):
    """From the operation numbered `at` on, nothing of the body reaches the disk.

    Renames and removals count; yields a list of those that were asked for. `at` None lets all pass.
    """
    asked = []

    def counted(operation):
        def one(*arguments, **options):
            asked.append(arguments)
            if at is not None and len(asked) > at:
                raise PowerCut
            return operation(*arguments, **options)

        return one

    def cleaning(operation):  # What clears up on the way out does not run either.
        def one(*arguments, **options):
            return None if at is not None and len(asked) > at else operation(*arguments, **options)

        return one

    with monkeypatch.context() as patch, contextlib.suppress(PowerCut):
        patch.setattr(os, "replace", counted(os.replace))
        patch.setattr(pathlib.Path, "unlink", counted(pathlib.Path.unlink))
        patch.setattr(shutil, "rmtree", cleaning(shutil.rmtree))
        yield asked
