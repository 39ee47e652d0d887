"""The mask of a constrained search, step by step, to hold against MiniOneRec's.

    python -m launch.probe_mask --base_model=Qwen/Qwen2.5-0.5B --eos_token_id=151645
    python -m launch.probe_mask --base_model=FOLDER --eos_token_id=2 --info_file=info.txt

Prints how the marker before an answer is cut off (the prefix index, and Llama's leading BOS), and
for one SID at each step what is looked up, what may follow, and what happens at its end and after a
token that no SID goes on with. Everything is compared with `kernels.trie`, which the search uses.

A folder with a `tokenizer.json` is read (`pip install 'minirec[lm]'`). Else the name decides alone,
and a built-in tokenisation shows the cut; nothing is downloaded. `--info_file` is a file of lines
`SID<tab>title<tab>id`, as MiniOneRec's `info/*.txt`; without it there are four SIDs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from absl import flags

from kernels.trie.build import MAX_LEVELS
from launch.wiring import program
from minirec.decoding.answer_mask import (
    MARKER,
    AnswerMask,
    Family,
    answer_mask,
    family_of,
    trie_differences,
)
from minirec.decoding.toy_tokens import ToyTokens
from minirec.evaluation.offline import read_info_sids
from pipelines.text.tokenizer import read_tokenizer

_BASE_MODEL = flags.DEFINE_string("base_model", None, "Folder or name of the checkpoint.")
_END = flags.DEFINE_integer("eos_token_id", None, "Token that ends an answer.", lower_bound=0)
_INFO_FILE = flags.DEFINE_string("info_file", None, "File of lines SID<tab>title<tab>id.")
_EXAMPLE = ("<a_1><b_5><c_2>", "<a_1><b_5><c_7>", "<a_1><b_9><c_2>", "<a_4><b_5><c_3>")
_SHOWN = 8  # allowed tokens of a step


def read_info(path: Path) -> list[str]:
    """Returns the distinct SIDs of an info file, in its order.

    Raises:
        ValueError: the file is missing, empty, not UTF-8, or has a line without a SID.
    """
    if not path.is_file():
        raise ValueError(f"--info_file={path}: there is no such file")
    sids = list(dict.fromkeys(read_info_sids(path)))
    if not sids:
        raise ValueError(f"{path}: the file is empty; each line must be SID<tab>title<tab>id")
    return sids


def make_tokenizer(
    base_model: str, family: Family, end: int
) -> tuple[str, Callable[[str], Sequence[int]], Callable[[int], str]]:
    """Returns where tokens come from, from text to tokens, and from a token to its text.

    Raises:
        ValueError: the folder's tokenizer cannot be read.
    """
    file = Path(base_model) / "tokenizer.json"
    if not file.is_file():
        toy = ToyTokens(family, end)
        return f"built-in; {file} is not there", toy, lambda token: toy.pieces[token]
    tokenizer, _ = read_tokenizer(file.parent)
    return (
        str(file),
        lambda text: tokenizer.encode(text).ids,
        lambda token: tokenizer.decode([token], skip_special_tokens=False),
    )


def report(base_model: str, end: int, sids: Sequence[str]) -> Iterator[str]:
    """Yields the lines to print.

    Raises:
        ValueError: SIDs that make no mask, or a tokeniser that cannot be read.
    """
    family = family_of(base_model)
    source, tokenize, piece = make_tokenizer(base_model, family, end)
    first = list(tokenize(MARKER + sids[0] + "\n"))
    mask = answer_mask(sids, tokenize, family, end)

    def shown(tokens: Sequence[int]) -> str:
        words = [f"{token} {piece(token)!r}" for token in tokens[:_SHOWN]]
        more = len(tokens) - _SHOWN
        return ", ".join(words) + (f" and {more} more" if more > 0 else "")

    yield f"base_model: {base_model} (family: {family.name})"
    yield f"tokeniser: {source}"
    yield f"text: {MARKER + sids[0] + chr(10)!r}"
    yield f"its tokens: {shown(first)}"
    dropped = f"dropped: {shown(first[:1])}" if family.strips_first else "none dropped"
    yield f"leading BOS: {dropped}"
    yield f"prefix index: {family.prefix_index}"
    yield f"marker: {shown(mask.marker)}"
    alone = len(tokenize(MARKER)) - int(family.strips_first)
    if alone != family.prefix_index:
        yield (
            f"warning: the marker alone has {alone} tokens, the prefix index is "
            f"{family.prefix_index}: MiniOneRec's first key is not the whole marker here"
        )
    lengths = sorted({len(answer) for answer in mask.answers})
    yield f"SIDs: {len(sids)}; tokens an answer, newline and end included: {lengths}"
    yield ""
    yield from _walk(mask, shown)
    yield ""
    if lengths[-1] > MAX_LEVELS:
        yield (
            f"kernels.trie: not compared: an answer has {lengths[-1]} tokens, a trie has at most "
            f"{MAX_LEVELS} levels; SIDs need tokens of their own in the tokeniser"
        )
        return
    trie = mask.trie()
    different = trie_differences(mask, trie)
    if different:
        yield f"kernels.trie: DIFFERENT after {len(different)} prefixes, first {different[0]}"
    else:
        yield (
            f"kernels.trie: {trie.num_levels} levels, allows the same tokens after every prefix of "
            f"the {len(sids)} SIDs"
        )


def _walk(mask: AnswerMask, shown: Callable[[Sequence[int]], str]) -> Iterator[str]:
    """Yields what happens along the first SID, at its end, and beside the catalogue."""
    answer = mask.answers[0]
    for step, token in enumerate(answer):
        generated = answer[:step]
        yield f"step {step}: looks up {shown(mask.key(generated))}"
        yield f"  allowed: {shown(mask.allowed(generated))}"
        yield f"  taken: {shown([token])}"
    yield f"end: after {shown(answer[-1:])} nothing is known of {shown(answer)}"
    yield f"  MiniOneRec: {shown(mask.forced(answer))} alone is left; generate has stopped there"
    yield "  minirec: the beam is at a leaf, the search is over"
    unknown = next((t for t in mask.marker if t not in mask.allowed(())), mask.end)
    yield f"outside: after {shown([unknown])}, which begins no SID"
    yield f"  MiniOneRec: {shown(mask.forced([unknown]))} is forced, with a warning"
    yield "  minirec: never reached; a beam without a valid continuation is dead, score -inf"


def main() -> None:
    """Prints the example.

    Raises:
        UsageError: a flag is missing.
    """
    if _BASE_MODEL.value is None or _END.value is None:
        raise program.UsageError("--base_model and --eos_token_id must be given")
    sids = _EXAMPLE if _INFO_FILE.value is None else read_info(Path(_INFO_FILE.value))
    for line in report(_BASE_MODEL.value, _END.value, sids):
        print(line)


if __name__ == "__main__":
    program.start(main, sys.argv)
