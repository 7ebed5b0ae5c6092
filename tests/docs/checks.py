"""What can be told of a block without running it: a reason for each thing that is wrong."""

import ast
import configparser
import importlib.util
import json
import re
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml
from fastapi import FastAPI
from pydantic import ValidationError
from starlette.routing import Route

from app.catalog import BaseModelEntry, Catalog
from app.content import deny_list
from app.main import create_app
from app.settings import REPOSITORY, Settings
from tests.docs.commands import commands_in
from tests.docs.pages import FIRST, Block
from tools import make_docs
from worker.ml.training.shell.dataset_keys import KEYS as DATASET_KEYS

SHELL = ("sh", "bash", FIRST)
LANGUAGES = (*SHELL, "console", "python", "toml", "json", "yaml", "ini", "text")
# The command line's own, beside the settings.
MORE_VARIABLES = {"LORAWRIGHT_URL", "LORAWRIGHT_API_KEY"}
SENDS_BODY = re.compile(r"^(-d|--json|--data.*|-F|--form.*|-T)$")
COMMAND = re.compile(r"\s*(\$ |(lorawright|curl|make|docker|kubectl|python3?|pip) [\w./$\"-])")
# Folders of the repository whose files a block may name.
OURS = re.compile(r"^(app|assets|bench|deploy|docs|examples|tests|tools|worker)/[\w./-]*$")


def wrong_with(block: Block) -> list[str]:
    """A sentence for each mistake; none where it looks right."""
    if block.language not in LANGUAGES:
        known = ", ".join(LANGUAGES)
        return [f"the language is {block.language!r}; it must be one of {known}"]
    return [*_unknown_variables(block), *CHECKS[block.language](block)]


def shell_of(block: Block) -> str:
    """The commands of a shell block; of `console` those after a prompt."""
    if block.language != "console":
        return block.text
    lines = [re.match(r"\$ (.*)", line) for line in block.text.splitlines()]
    # Lines of output stay as empty ones, so that numbers of lines are the page's.
    return "\n".join(line[1] if line else "" for line in lines)


def _unknown_variables(block: Block) -> Iterator[str]:
    known = {f"LORAWRIGHT_{name.upper()}" for name in Settings.model_fields} | MORE_VARIABLES
    for name in re.findall(r"\bLORAWRIGHT_[A-Z0-9_]*[A-Z0-9]\b(?!\*|_)", block.text):
        if name not in known:
            yield f"{name} is no setting"


def _wrong_shell(block: Block) -> Iterator[str]:
    script = shell_of(block)
    checked = subprocess.run(
        ["bash", "-n"], input=script, capture_output=True, text=True, check=False
    )
    if checked.returncode != 0:
        yield checked.stderr.strip()
        return
    for words in commands_in(script):
        yield from _wrong_command(words)
    commands = [words[0] for words in commands_in(script)]
    if block.language == "console" and not commands:
        yield "console, but no line begins with `$ `"


def _wrong_command(words: list[str]) -> Iterator[str]:
    program, *rest = words
    program = program.rpartition("/")[2]
    if program == "lorawright":
        yield from _wrong_lorawright(rest)
    elif program == "make":
        yield from _wrong_make(rest)
    elif program == "curl":
        yield from _wrong_curl(rest)
    elif program.startswith("python") and rest[:1] == ["-m"]:
        yield from _wrong_module(rest[1])
    for word in words:
        if OURS.match(word) and not (REPOSITORY / word).exists():
            yield f"{word} does not exist"


def _wrong_lorawright(words: list[str]) -> Iterator[str]:
    commands = {
        name.removeprefix("lorawright "): command for name, command in make_docs.commands().items()
    }
    name = next((name for name in commands if words[: len(name.split())] == name.split()), None)
    if name is None:
        if words not in (["--help"], []):
            yield f"lorawright {' '.join(words[:2])}: no such command"
        return
    options = {
        option
        for parameter in commands[name].params
        for option in (*parameter.opts, *parameter.secondary_opts, "--help")
    }
    for word in words:
        told = word.partition("=")[0]
        if re.match(r"--?[a-z]", told) and told not in options:
            yield f"lorawright {name} has no option {told}"


@cache
def _make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", (REPOSITORY / "Makefile").read_text(), re.M))


def _wrong_make(words: list[str]) -> Iterator[str]:
    for word in words:
        if not word.startswith("-") and "=" not in word and word not in _make_targets():
            yield f"make has no target {word}"


@cache
def _application() -> FastAPI:
    """Made once, since its document takes a while."""
    return create_app()


@cache
def _addresses() -> list[tuple[re.Pattern[str], set[str]]]:
    application = _application()
    documented = [
        (path, {method.upper() for method in methods})
        for path, methods in application.openapi()["paths"].items()
    ]
    routes = [
        (route.path, set(route.methods or ()))
        for route in application.routes
        if isinstance(route, Route)
    ]
    return [
        (re.compile(re.sub(r"\\{\w+(:\w+)?\\}", r"[^/]+", re.escape(path))), methods)
        for path, methods in [*documented, *routes]
    ]


def _wrong_curl(words: list[str]) -> Iterator[str]:
    method = "POST" if any(SENDS_BODY.match(word) for word in words) else "GET"
    for option in ("-X", "--request"):
        if option in words:
            method = words[words.index(option) + 1]
    if {"-I", "--head"} & set(words):
        method = "HEAD"
    for word in words:
        path = _path_of(word)
        if path is None:
            continue
        fitting = [methods for pattern, methods in _addresses() if pattern.fullmatch(path)]
        if not fitting:
            yield f"{path} is no address of the API"
        elif not any(method in methods or method == "HEAD" for methods in fitting):
            yield f"{path} is no address for {method}"


def _path_of(word: str) -> str | None:
    """What the API is asked for, `/v1/datasets`; None for addresses of others, and no addresses."""
    found = re.match(r"(?:\$\{?api\}?|(?:https?://[^/\s]+|\$\{?\w*(?:URL|url)\}?)(?=/))(/.*)", word)
    if found is None:
        return None
    path = found[1].partition("?")[0].partition("#")[0]
    if path.startswith("/$"):
        return None  # not even what kind of thing it is can be told from here
    return f"/v1{path}" if re.match(r"\$\{?api", word) else path


def _wrong_module(name: str) -> Iterator[str]:
    ours = name.partition(".")[0] in ("app", "worker", "tools", "bench", "tests")
    if ours and importlib.util.find_spec(name) is None:
        yield f"there is no module {name}"


def _wrong_python(block: Block) -> Iterator[str]:
    try:
        ast.parse(block.text)
    except SyntaxError as error:
        yield f"line {error.lineno}: {error.msg}"


def _wrong_toml(block: Block) -> Iterator[str]:
    """A catalog, an entry of one or a part of an entry, a deny-list, sd-scripts' dataset.toml."""
    try:
        content = tomllib.loads(block.text)
    except tomllib.TOMLDecodeError as error:
        yield str(error)
        return
    if "file" in block.marks and not content.keys() & {"base_models", "rule", "datasets"}:
        return
    if "base_models" in content and isinstance(content["base_models"], list):
        yield from _wrong_catalog(content)
    elif "base_models" in content:
        yield from _wrong_entry(content["base_models"])
    elif "rule" in content:
        yield from _wrong_deny_list(block.text)
    elif content.keys() <= {"general", "datasets"}:
        yield from _wrong_dataset_toml(content)
    else:
        yield from _wrong_entry(content)


def _wrong_catalog(content: dict[str, Any]) -> Iterator[str]:
    own = tomllib.loads((REPOSITORY / "assets" / "catalog.toml").read_text())
    joined = {name: [*own[name], *content.get(name, [])] for name in own}
    try:
        Catalog.model_validate(joined)
    except ValidationError as error:
        yield str(error)


def _wrong_entry(part: dict[str, Any]) -> Iterator[str]:
    """A few lines of an entry are put into a whole one."""
    whole = {"id": "x", "title": "X", "source": "x.safetensors", "source_kind": "file"}
    yield from _wrong_catalog({"base_models": [{**whole, "like": "sdxl-1.0", **part}]})
    unknown = part.keys() - BaseModelEntry.model_fields.keys()
    if unknown:
        yield f"{sorted(unknown)} are no fields of a base model's entry"


def _wrong_deny_list(text: str) -> Iterator[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(text)
        file.flush()
        try:
            deny_list.read(Path(file.name))
        except ValueError as error:
            yield str(error)


def _wrong_dataset_toml(content: dict[str, Any]) -> Iterator[str]:
    tables = [content.get("general", {}), *content.get("datasets", [])]
    tables += [subset for table in content.get("datasets", []) for subset in table["subsets"]]
    for name in {name for table in tables for name in table} - {"subsets"}:
        if name not in DATASET_KEYS:
            yield f"{name} is no key of dataset.toml"


def _wrong_json(block: Block) -> Iterator[str]:
    try:
        content = json.loads(block.text)
    except ValueError as error:
        yield str(error)
        return
    name = block.marks.get("schema")
    if name is None and "file" not in block.marks:
        yield "say which schema of docs/openapi.json it is: <!-- schema: NAME -->"
    if name is None:
        return
    schemas = _application().openapi()["components"]["schemas"]
    if name not in schemas:
        yield f"{name} is no schema of docs/openapi.json"
        return
    document = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}}
    yield from (str(error) for error in jsonschema_rs.iter_errors(document, content))
    told = schemas[name].get("properties", {})
    for field in content.keys() - told.keys():
        yield f"{field} is no field of {name}"


def _wrong_yaml(block: Block) -> Iterator[str]:
    try:
        list(yaml.safe_load_all(block.text))
    except yaml.YAMLError as error:
        yield str(error)


def _wrong_ini(block: Block) -> Iterator[str]:
    try:
        configparser.ConfigParser(strict=False, interpolation=None).read_string(block.text)
    except configparser.Error as error:
        yield str(error)


def _wrong_text(block: Block) -> Iterator[str]:
    """Drawings and output. Commands do not hide here."""
    for line in block.text.splitlines():
        if COMMAND.match(line):
            yield f"text, but this is a command: {line.strip()}"


CHECKS = {
    **dict.fromkeys((*SHELL, "console"), _wrong_shell),
    "python": _wrong_python,
    "toml": _wrong_toml,
    "json": _wrong_json,
    "yaml": _wrong_yaml,
    "ini": _wrong_ini,
    "text": _wrong_text,
}
