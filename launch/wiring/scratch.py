"""A tiny language model made from nothing, as a Hugging Face folder like any other."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax import nnx

from launch.wiring.program import Job
from minirec import files
from minirec.models import SidDecoder, SidDecoderConfig, TrunkConfig
from minirec.models.hf import save_checkpoint
from minirec.training.processes import everywhere, first_alone
from pipelines.prepared import Prepared
from pipelines.text.train_tokenizer import train_tokenizer

_RECORD = "made_from.json"


def make_scratch(
    job: Job, prepared: Prepared, words: Mapping[str, Any] | None = None, texts: Sequence[str] = ()
) -> Path:
    """Returns `workdir/scratch`: random weights, and a tokenizer of titles and prompts.

    It is made where it is missing, or was made from something else; the same data, config and seed
    make the same one.

    Args:
        job: its config says how large a model.
        prepared: the catalogue.
        words: the prompts' words, however nested; None: `config.prompts`.
        texts: what else the tokenizer learns from.

    Raises:
        ValueError: a field of `config.model.scratch` is impossible.
    """
    folder, config = job.workdir / "scratch", job.config
    fields = config.model.scratch.to_dict()
    words = config.prompts.to_dict() if words is None else words
    record: dict[str, Any] = {
        "prepared": prepared.manifest["fingerprint"],
        "prompts": words,
        **(
            {"texts": [hashlib.sha256(text.encode()).hexdigest() for text in texts]}
            if texts
            else {}
        ),
        "scratch": fields,
        "seed": config.seed,
    }
    if everywhere(_is_made(folder, record)):
        return folder
    most, tie_embeddings = fields.pop("tokens"), fields.pop("tie_embeddings")
    tokenizer = train_tokenizer([*prepared.titles, *_leaves(words), *texts], most)
    trunk = TrunkConfig(**fields, qkv_bias=True)
    model = SidDecoder(
        SidDecoderConfig(trunk, tokenizer.size, tie_embeddings), rngs=nnx.Rngs(config.seed)
    )
    partial = folder.with_name(f".{folder.name}.partial")
    save_checkpoint(model, partial, model_type="qwen2", overwrite=True)

    def finish() -> None:
        tokenizer.save(partial)
        files.write_json(partial / _RECORD, record)
        files.write_checksums(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)

    first_alone(finish)
    return folder


def _leaves(words: Any) -> Iterator[str]:
    if isinstance(words, Mapping):
        for entry in words.values():
            yield from _leaves(entry)
    else:
        yield words


def _is_made(folder: Path, record: dict[str, Any]) -> bool:
    """Returns whether the folder is there, made from the same, and as it was written."""
    try:
        files.check_folder(folder, remedy="it is made anew")
    except ValueError:
        return False
    return files.read_json(folder / _RECORD) == json.loads(json.dumps(record))
