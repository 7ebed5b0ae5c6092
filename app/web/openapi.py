"""The OpenAPI document: what FastAPI knows, and every error that an operation can answer with."""

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from app.web.problems import MEDIA_TYPE, Problem

REASONS = {
    400: "The body cannot be taken apart",
    401: "No API key, or one that is unknown or revoked",
    403: "The key lacks a scope",
    404: "No such object in this account",
    409: "The state of an object forbids it",
    412: "The object is no longer as `If-Match` says",
    413: "The body is over its limit",
    415: "The body is of another type than is taken here",
    422: "A value is wrong; `errors` says which",
    429: "More requests than the account may make in a minute",
    500: "A mistake of ours, recorded under the request's id",
    503: "A server that is needed is away, or too busy; try again",
}


IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key with the same request is answered as it was the first time",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[ -~]+$"},
}
PREFER = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "description": "`wait=N`: answer when the job has ended or N seconds (1 to 60) have passed",
    "schema": {"type": "string"},
}


class DescribedApi(FastAPI):
    """An app whose document lists its errors, and whose operations have short stable names."""

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = describe_errors(super().openapi())
        return self.openapi_schema


def operation_id(route: APIRoute) -> str:
    """The function's name, such as `create_training`: what generated clients call."""
    return route.name


def describe_errors(document: dict[str, Any]) -> dict[str, Any]:
    """Add to each operation the statuses it may end in, with the shape of their bodies."""
    schemas = document["components"]["schemas"]
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs", {})
    schemas["Problem"] = problem
    # FastAPI's own shape of a 422, which is never sent.
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    _mark_files(document)
    for operations in document["paths"].values():
        for method, operation in operations.items():
            _name_form(operation, schemas)
            if method == "post" and "201" in operation["responses"]:
                operation.setdefault("parameters", []).append(IDEMPOTENCY_KEY)
            if any(
                parameter["name"] == "If-Match" for parameter in operation.get("parameters", [])
            ):
                operation["responses"]["412"] = _problem(412)
            if _answers_a_job(operation, schemas):
                operation["parameters"].append(PREFER)
            responses = operation["responses"]
            if _is_fastapis(responses.get("422", {})):
                del responses["422"]
            for status in _statuses(operation):
                responses.setdefault(str(status), _problem(status))
            operation["responses"] = dict(sorted(responses.items()))
    return document


def _statuses(operation: dict[str, Any]) -> list[int]:
    """What an operation can answer besides its success."""
    statuses = [500]
    parameters = operation.get("parameters", [])
    if "security" in operation:
        statuses += [401, 403, 429, 503]
    if any(parameter["in"] == "path" for parameter in parameters):
        # Cancellations and edits of what is in a state that forbids them.
        statuses += [409]
    if parameters:
        # A query may name an object too: that of the page before.
        statuses += [404, 422]
    if "requestBody" in operation:
        # A body may name objects that are not there, or are not as they should be.
        statuses += [400, 404, 409, 413, 415, 422]
    return statuses


def _name_form(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Give a form that is written in place a name, for clients to call it by."""
    content = operation.get("requestBody", {}).get("content", {}).get("multipart/form-data", {})
    if "$ref" not in content.get("schema", {"$ref": ""}):
        name = f"Body_{operation['operationId']}"
        schemas[name] = {"title": name, **content["schema"]}
        content["schema"] = {"$ref": f"#/components/schemas/{name}"}


def _answers_a_job(operation: dict[str, Any], schemas: dict[str, Any]) -> bool:
    made = operation["responses"].get("201", {}).get("content", {}).get("application/json", {})
    name = made.get("schema", {}).get("$ref", "").rpartition("/")[2]
    return "queue" in schemas.get(name, {}).get("properties", {})


def _mark_files(node: Any) -> None:
    """Say `format: binary` of files too, as OpenAPI 3.0 did: client generators look for that."""
    if isinstance(node, dict):
        if node.get("contentMediaType") == "application/octet-stream":
            node["format"] = "binary"
        node = node.values()
    elif not isinstance(node, list):
        return
    for inner in node:
        _mark_files(inner)


def _is_fastapis(response: dict[str, Any]) -> bool:
    schema = response.get("content", {}).get("application/json", {}).get("schema", {})
    return bool(schema.get("$ref", "").endswith("/HTTPValidationError"))


def _problem(status: int) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": REASONS[status],
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    header = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}.get(status)
    if header is not None:
        response["headers"] = {header: {"schema": {"type": "string"}, "required": True}}
    return response
