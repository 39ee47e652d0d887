"""`predictions.json`: every user's ranked SIDs and the target's, for offline metrics."""

from __future__ import annotations

import json
import os

import numpy as np
from jaxtyping import Int

from minirec import files
from minirec.evaluation import ranks
from minirec.sids import sid_string
from minirec.sids.statistics import number_sids


def write_predictions(
    path: str | os.PathLike[str],
    ranked_sids: Int[np.ndarray, "n M L"],
    target_sid: Int[np.ndarray, "n L"],
) -> None:
    """Writes `[{"predict": [sid, …], "output": sid}, …]`, one user a line, in the order given.

    The layout is MiniOneRec's. Every list is written whole, so that metrics computed from the file
    are the report's at SID level. Lists are of one length unless the search found a user fewer
    SIDs than it has beams, as in a catalogue that a user has nearly used up; such a list is
    shorter, and may be empty.

    Args:
        path: the file, which appears whole or not at all.
        ranked_sids: codes, best first; dead beams (a negative code) are left out, and of a
            repeated SID only the first is written.
        target_sid: codes of the SID that came next.

    Raises:
        ValueError: the shapes do not fit.
    """
    if ranked_sids.ndim != 3 or target_sid.shape != (len(ranked_sids), ranked_sids.shape[-1]):
        raise ValueError(
            f"target_sid: shape {list(target_sid.shape)} does not fit ranked_sids "
            f"{list(ranked_sids.shape)}"
        )
    shown = (ranked_sids >= 0).all(axis=-1) & ranks.first_occurrences(ranked_sids)
    # A SID is spelled once, not once a beam: a million beams hold a few thousand SIDs.
    every = np.concatenate([ranked_sids.reshape(-1, ranked_sids.shape[-1]), target_sid])
    numbers = number_sids(every)
    different, first = np.unique(numbers, return_index=True)
    spelled = {
        int(number): json.dumps(sid_string(codes))
        for number, codes in zip(different, every[first], strict=True)
        if (codes >= 0).all()
    }
    predicted = numbers[: shown.size].reshape(shown.shape)
    output = numbers[shown.size :].tolist()
    lines = []
    for row, keep, target in zip(predicted, shown, output, strict=True):
        sids = ", ".join(spelled[number] for number in row[keep].tolist())
        lines.append(f'{{"predict": [{sids}], "output": {spelled[target]}}}')
    files.write_text(path, "[\n" + ",\n".join(lines) + "\n]\n")
