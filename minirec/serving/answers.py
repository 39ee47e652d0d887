"""Engine answers as messages: titles, SIDs and reasons beside item ids and scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from minirec.recommend.sources import CONTENT, ITEM_HEAD, ITEM_TRANSITION, MODEL
from minirec.serving.catalogue import Catalogue
from minirec.serving.messages import BeamLevel, CatalogueItem, Item, RecommendAnswer
from minirec.serving.query import Explanation
from minirec.serving.request import Answer
from minirec.sids.table import token_string

_LINKS = 3  # history items that a reason names
_SAYS = {
    MODEL: "the search writes it",
    ITEM_HEAD: "the item table ranks it",
    ITEM_TRANSITION: "others took it after items of this history",
    CONTENT: "its text is like the newest items'",
}


def to_message(answer: Answer, request_id: str, *, history: Sequence[str] = ()) -> RecommendAnswer:
    """Returns an answer as it goes over the wire.

    Args:
        answer: the engine's.
        request_id: names the request in logs.
        history: raw ids that were asked with, for the reasons.
    """
    catalogue, found = answer.served.catalogue, answer.found
    message = RecommendAnswer(
        items=[],
        rank_by=answer.rank_by,
        model_version=answer.served.model_version,
        catalogue_version=answer.catalogue_version,
        request_id=request_id,
    )
    if answer.unknown:
        message.unknown = list(answer.unknown)
    for rank, (item, score) in enumerate(
        zip(found.item.tolist(), found.score.tolist(), strict=True)
    ):
        entry = Item(
            catalogue.raw_item_ids[item],
            catalogue.titles[item],
            catalogue.sid(item),
            round(score, 6) if score > -math.inf else None,
            rank,
        )
        message.items.append(entry)
    if found.explanation is not None:
        _explain(message, found.explanation, answer, history)
        message.milliseconds = {
            "queued": round(1e3 * answer.queued_s, 3),
            "searched": round(1e3 * answer.searched_s, 3),
        }
    return message


def catalogue_item(catalogue: Catalogue, item: int, *, in_stock: bool) -> CatalogueItem:
    """Returns an item of the catalogue as it goes over the wire."""
    return CatalogueItem(
        catalogue.raw_item_ids[item],
        catalogue.titles[item],
        catalogue.sid(item),
        bool(catalogue.listed[item]),
        in_stock,
        catalogue.columns.of(item),
    )


def _explain(
    message: RecommendAnswer, explanation: Explanation, answer: Answer, history: Sequence[str]
) -> None:
    catalogue, ranker = answer.served.catalogue, answer.served.ranker
    known = [
        item
        for raw in history
        if (item := catalogue.item_of.get(raw)) is not None and item < len(ranker.train_count)
    ]
    listed = {
        name: dict(zip(items.tolist(), probabilities.tolist(), strict=True))
        for name, (items, probabilities) in explanation.sources.items()
    }
    for entry, item in zip(message.items, answer.found.item.tolist(), strict=True):
        entry.sources = {
            name: round(given[item], 6) for name, given in listed.items() if item in given
        }
        entry.why = [_SAYS.get(name, name) for name in entry.sources]
        entry.why += _links(answer, known, item)
    codes = _spelling(answer)
    message.beams = [
        BeamLevel(
            ["".join(codes.get((place, token), "?") for place, token in enumerate(sid))
             for sid in level.sid.tolist()],
            [round(score, 4) if np.isfinite(score) else None for score in level.score.tolist()],
            level.children.tolist(),
            level.allowed.tolist(),
        )
        for level in explanation.levels
    ]  # fmt: skip


def _links(answer: Answer, known: Sequence[int], item: int) -> list[str]:
    """Returns which items of the history lead to an item, by what followed and by text."""
    ranker, titles = answer.served.ranker, answer.served.catalogue.titles
    if item >= len(ranker.train_count):
        return ["it came after training: the search knows it by its SID"]
    transitions, near, found = ranker.transition.transitions, ranker.neighbours, []
    for past in list(dict.fromkeys(reversed(known)))[:_LINKS]:
        start, stop = transitions.indptr[past : past + 2]
        at = np.flatnonzero(transitions.indices[start:stop] == item)
        if len(at):
            share = float(transitions.data[start:stop][at[0]])
            found.append(f"{share:.0%} of what came after “{titles[past]}”")
        if near is not None:
            start, stop = near.offsets[past : past + 2]
            at = np.flatnonzero(near.item[start:stop] == item)
            if len(at):
                cosine = float(near.cosine[start:stop][at[0]])
                found.append(f"text like “{titles[past]}” ({cosine:.2f})")
    return found


def _spelling(answer: Answer) -> Mapping[tuple[int, int], str]:
    """Returns how each of the search's tokens is written, by its place."""
    catalogue = answer.served.catalogue
    cached = catalogue.spelling
    if cached:
        return cached
    tokens, codes = catalogue.item_tokens[: catalogue.num_items], catalogue.codes
    same_length = tokens.shape[1] == codes.shape[1]
    for place in range(tokens.shape[1]):
        if same_length:
            pairs = np.unique(np.stack([tokens[:, place], codes[:, place]], axis=1), axis=0)
            cached.update(
                {(place, token): token_string(place, code) for token, code in pairs.tolist()}
            )
        else:  # A language model's answer: its wording stands around the codes.
            cached.update({(place, token): f"<{token}>" for token in np.unique(tokens[:, place])})
    return cached


def to_json(message: msgspec.Struct) -> bytes:
    """Returns a message as JSON."""
    return msgspec.json.encode(message)
