"""What a server answers, as OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

import msgspec

from minirec.serving.messages import (
    BatchAnswer,
    BatchRequest,
    CatalogueChange,
    CatalogueItem,
    ErrorAnswer,
    ItemsAnswer,
    ModelChange,
    RecommendAnswer,
    RecommendRequest,
    SimilarAnswer,
    Status,
    StockChange,
    VersionAnswer,
    components,
)

_ERRORS = {
    "400": "What was asked for cannot be; `field` says where.",
    "404": "There is no such item.",
    "408": "The body did not come in time.",
    "413": "The body is too large.",
    "429": "Too many requests wait; `Retry-After` says when to come again.",
    "500": "The search failed; the log has it under the id in the message.",
    "503": "The server is going down, or lost what was to answer, twice.",
    "504": "The deadline passed before there was an answer.",
}
_ADMIN_ERRORS = {
    **{code: _ERRORS[code] for code in ("400", "408", "413", "500")},
    "401": "The admin's token is missing or wrong.",
    "422": "The change cannot be; nothing was changed.",
    "507": "The change cannot be written; nothing was changed.",
}


def openapi() -> dict[str, Any]:
    """Returns the document of what clients may ask."""
    post, get = _Paths(_ERRORS), _Paths(_ERRORS)
    num = _query("num", {"type": "integer", "minimum": 1, "maximum": 100}, "Items at most.")
    item = {
        "name": "item_id",
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
        "description": "What the log calls the item.",
    }
    words = _query("q", {"type": "string"}, "Words of a title, the last one perhaps begun.")
    kinds = {"type": "string", "enum": ["text", "follows", "table", "sid"]}
    by = _query("by", kinds, "What likeness is measured by.")
    return _document(
        "minirec",
        {
            "/v1/recommend": {
                "post": post.of("Recommend items.", RecommendAnswer, body=RecommendRequest)
            },
            "/v1/recommend:batch": {
                "post": post.of("Recommend items to several.", BatchAnswer, body=BatchRequest)
            },
            "/v1/items": {"get": get.of("Find items by title.", ItemsAnswer, [words, num])},
            "/v1/items/{item_id}": {"get": get.of("An item.", CatalogueItem, [item])},
            "/v1/similar/{item_id}": {
                "get": get.of("What is like an item.", SimilarAnswer, [item, by, num])
            },
            "/v1/status": {"get": get.of("What is served.", Status)},
        },
        [*post.kinds, *get.kinds],
    )


def admin_openapi() -> dict[str, Any]:
    """Returns the document of what admins may ask."""
    paths = _Paths(_ADMIN_ERRORS)
    return _document(
        "minirec, for admins",
        {
            "/admin/catalogue": {
                "post": paths.of("Serve another catalogue.", VersionAnswer, body=CatalogueChange)
            },
            "/admin/catalogue/rollback": {
                "post": paths.of("Serve the catalogue before again.", VersionAnswer)
            },
            "/admin/stock": {
                "post": paths.of("Sell items out, or again.", VersionAnswer, body=StockChange)
            },
            "/admin/model": {
                "post": paths.of("Serve another model.", VersionAnswer, body=ModelChange)
            },
        },
        paths.kinds,
    )


class _Paths:
    """Operations, and the messages that they speak of."""

    def __init__(self, errors: dict[str, str]):
        self.kinds: list[type[msgspec.Struct]] = [ErrorAnswer]
        self._errors = errors

    def of(
        self,
        summary: str,
        answer: type[msgspec.Struct],
        parameters: list[dict[str, Any]] | None = None,
        body: type[msgspec.Struct] | None = None,
    ) -> dict[str, Any]:
        """Returns an operation."""
        self.kinds.append(answer)
        operation: dict[str, Any] = {
            "summary": summary,
            "responses": {
                "200": {"description": answer.__doc__ or "", "content": _json(answer)},
                **{
                    code: {"description": why, "content": _json(ErrorAnswer)}
                    for code, why in self._errors.items()
                },
            },
        }
        if parameters:
            operation["parameters"] = parameters
        if body is not None:
            self.kinds.append(body)
            operation["requestBody"] = {"required": True, "content": _json(body)}
        return operation


def _document(
    title: str, paths: dict[str, Any], kinds: list[type[msgspec.Struct]]
) -> dict[str, Any]:
    _, schemas = components(list(dict.fromkeys(kinds)))
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _json(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}


def _query(name: str, schema: dict[str, Any], about: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": about}
