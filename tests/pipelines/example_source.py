"""MovieLens 1M: `ratings.dat`, lines of user::item::rating::time."""

import dataclasses

import numpy as np
import polars as pl

from pipelines.sources.own_log import LogConfig, read_log
from pipelines.tables import Problem, Rows, text_blocks


@dataclasses.dataclass(frozen=True)
class Config:
    folder: str


@dataclasses.dataclass(frozen=True)
class RatingsTable:
    path: str
    name: str
    place = "line"

    def columns(self):
        return ["user", "item", "rating", "time"]

    def rows(self, columns):
        for block in text_blocks(self.path, encoding="latin-1"):
            lines = enumerate(block.data.decode().split("\n")[:-1], block.first_line)
            fields = {line: text.split("::") for line, text in lines}
            right = {line: row for line, row in fields.items() if len(row) == 4}
            what = f"{self.name}, line {{}}: {{}} is not user::item::rating::time".format
            wrong = [(n, what(n, row)) for n, row in fields.items() if n not in right]
            problems = [Problem(n, "wrong_number_of_fields", text) for n, text in wrong]
            frame = pl.DataFrame(list(right.values()), self.columns(), orient="row")
            yield Rows(frame.select(*columns), np.array(list(right)), problems)


def load(config, bad_rows):
    log = LogConfig("ratings.dat", config.folder)  # user, item and time are called so there
    return read_log(log, bad_rows, lambda path, name: RatingsTable(str(path), name))
