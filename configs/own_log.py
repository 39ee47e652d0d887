"""Your own log: `--config=own_log:FORMAT`, with FORMAT one of the variants below.

Say on the command line where the files lie and which column is what; every field can be set there
(`--print_config` lists them, `pipelines/sources/own_log.py` explains them):

    python -m launch.prepare --workdir=W --config=own_log:csv \\
      --config.data.source.folder=/my/logs --config.data.source.interactions='events-*.csv.gz' \\
      --config.data.source.user=customer --config.data.source.item=sku \\
      --config.data.source.time=created --config.data.source.time_unit=iso \\
      --config.data.source.event=type --config.data.source.events=view=1,cart=3,buy=5,ping=0 \\
      --config.data.source.catalogue=products.jsonl --config.data.source.item_id=sku \\
      --config.data.source.title=name --config.data.source.text=brand,description \\
      --config.data.source.attributes=category --config.data.on_bad_rows=skip

The steps after it (`launch.make_sids`, `launch.train`, `launch.evaluate`) take the same flags. What
is different for other formats, `--config.data.source.` before each:

    own_log:parquet       interactions='day=*/*.parquet'
    own_log:jsonl         interactions=events.jsonl.zst
    own_log:pylines       interactions=steam_reviews.json.gz (a Python dictionary a line)
    own_log:sqlite        interactions=shop.db table=events catalogue_table=products
                          (or query='SELECT ...' and catalogue_query='SELECT ...')
    own_log:recbole       interactions='*.inter' catalogue='*.item' title=movie_title
    own_log:sasrec        interactions=Beauty.txt (a user a line: items, oldest first)
    own_log:retailrocket  folder=/data/retailrocket

Of a log of ratings only those from a threshold on may count: MovieLens 1M is

    own_log:csv           folder=/data/ml-1m interactions=ratings.dat header=user,item,rating,time
                          delimiter=:: encoding=latin-1 value=rating min_value=4
                          catalogue=movies.dat catalogue_header=item,title,genres
                          title=title attributes=genres attribute_separator='|'

A `time_unit` with a percent sign is a pattern as `strptime` has them, for times such as
`Sun Jul 23 07:26:12 -0700 2017`: `--config.data.source.time_unit='%a %b %d %H:%M:%S %z %Y'`.

For more than a try, copy this file and write the fields down. Preparing reads a million rows a
second; training takes as long as `config.train.num_epochs` asks for, within `min_steps` and
`max_steps` (8,000: half an hour on 2 CPU cores). Its score depends on the log: `launch.evaluate`
puts popularity and a transition count beside the model. Where people take the same item again, set
`--config.search.exclude_seen=False`; `launch.prepare` says if they do.
"""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict

from configs import blocks, parts

# What the sources of tables share.
_LOG = {
    "folder": "",
    "interactions": "",
    "user": "user",
    "item": "item",
    "time": "time",  # "" for a log in order that has none
    "event": "",
    "time_unit": "s",  # "ms", "us", "ns", "iso" or a pattern, such as "%d/%m/%Y %H:%M"
    "events": "",  # such as "view=1,cart=3"
    "value": "",  # such as "rating"
    "min_value": 0.0,  # rows of a lower value are left out
    "catalogue": "",
    "catalogue_format": "",
    "item_id": "",  # as `item`
    "title": "",
    "text": "",  # columns, such as "brand,description"
    "attributes": "",
    "attribute_separator": "",
    "columns": "",  # that a server's rules speak of, such as "category,price"
    "delimiter": ",",
    "quote": '"',
    "encoding": "utf-8",
    "catalogue_delimiter": "",
    "catalogue_encoding": "",
    "catalogue_header": "",  # where it has none, such as "item,title,genres"
}
_SOURCES: dict[str, dict[str, Any]] = {
    "csv": {**_LOG, "header": ""},
    "parquet": _LOG,
    "jsonl": _LOG,
    "pylines": _LOG,
    "sqlite": {**_LOG, "table": "", "query": "", "catalogue_table": "", "catalogue_query": ""},
    "recbole": {
        "folder": "",
        "interactions": "*.inter",
        "user": "user_id",
        "item": "item_id",
        "time": "timestamp",
        "time_unit": "s",
        "event": "",
        "events": "",
        "value": "",
        "min_value": 0.0,
        "catalogue": "",
        "title": "",
        "text": "",
        "attributes": "",
        "columns": "",
        "delimiter": "\t",
        "quote": "",
        "encoding": "utf-8",
    },
    "sasrec": {"folder": "", "interactions": "", "attributes": "", "index_offset": 0},
    "retailrocket": {
        "folder": "",
        "events": "view=1,addtocart=1,transaction=1",
        "interactions": "events.csv",
        "properties": "item_properties_part*.csv",
        "categories": "category_tree.csv",
        "attributes": "categoryid",
        "text": "",
        "columns": "",
    },
}
VARIANTS = ("", *_SOURCES)


def get_config(variant: str = "") -> ConfigDict:
    """Returns the experiment.

    Args:
        variant: the log's format; "" is "csv".

    Raises:
        ValueError: an unknown variant.
    """
    parts.check_variant(variant, VARIANTS)
    name = variant or "csv"
    config = blocks.sid(f"own_log_{name}")
    config.data.source = ConfigDict({"name": name, **_SOURCES[name]})
    return config
