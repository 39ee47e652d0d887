"""A language model of one's own, of minirec's README, BUILD.md and docs, and chat about them.

    python -m launch.prepare_text    --config=text_quickstart --workdir=W
    python -m launch.train_tokenizer --config=text_quickstart --workdir=W
    python -m launch.train           --config=text_quickstart --workdir=W
    python -m launch.evaluate        --config=text_quickstart --workdir=W
    python -m launch.chat            --config=text_quickstart --workdir=W

`docs/text.md` has the commands with what they print. On 2 CPU cores (AMD EPYC)
150 steps took 213 s, and the best was step 50: it trains 100.
"""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from configs import parts, text_blocks

VARIANTS = ("", "smoke")
# The documents are part of the package, as links to where they lie in the repository.
_DOCUMENTS = Path(__file__).parent.parent / "pipelines" / "text" / "documents"


def get_config(variant: str = "") -> ConfigDict:
    """Returns the experiment.

    Args:
        variant: "smoke" for a run of some seconds.

    Raises:
        ValueError: an unknown variant.
    """
    parts.check_variant(variant, VARIANTS)
    config = text_blocks.text("text_quickstart")
    config.corpus.folder = str(_DOCUMENTS)
    config.corpus.files = ("*.md", "docs/*.md")
    config.corpus.min_chars = 80
    config.corpus.eval_ratio = 0.1
    config.tokenizer.vocab_size = 4096
    config.loader.shifts = 2
    config.model.depth = 3
    config.model.dropout = 0.1
    config.train.num_steps = 100
    config.train.warmup_steps = 20
    config.train.eval_every = 50
    config.train.checkpoint_every = 50
    config.train.log_every = 5
    config.sampling.prompts = ("The beam step", "A catalogue")
    config.sampling.every = 50
    config.gate.match_ratio = 0.6
    if variant == "smoke":
        config.name = "text_quickstart_smoke"
        config.tokenizer.vocab_size = 1024
        config.loader.batch_size = 4
        config.loader.row_tokens = 64
        config.loader.shifts = 1
        config.model.depth = 1
        config.model.width = 32
        config.train.num_steps = 12
        config.train.warmup_steps = 2
        config.train.learning_rate = 1e-2
        config.train.muon_learning_rate = 1e-2
        config.train.eval_every = 6
        config.train.checkpoint_every = 4
        config.train.log_every = 2
        config.sampling.every = 6
        config.sampling.max_new_tokens = 8
        config.evaluate.overlap = 16
        config.chat.max_new_tokens = 16
    return config
