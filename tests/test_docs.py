"""The docs are true: every code, setting and command is in them, and what they say of each holds.

Their own commands are run by tests/docs.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import app
import worker
from app import errors
from app.errors import LorawrightError, status_of
from app.settings import REPOSITORY, Settings
from tools import make_docs

DOCS = REPOSITORY / "docs"
EXAMPLES = REPOSITORY / "examples"
# Of a link the file, which may be left out, and the heading, which may be too.
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)#\s]*)(?:#([^)]*))?\)")
README = (REPOSITORY / "README.md").read_text()


def sources() -> list[ast.Module]:
    """The service and the worker, without the command line, which answers nobody."""
    packages: list[ModuleType] = [app, worker]
    folders = [Path(package.__path__[0]) for package in packages]
    return [
        ast.parse(path.read_text())
        for folder in folders
        for path in folder.rglob("*.py")
        if folder / "cli" not in path.parents
    ]


def codes_in(trees: list[ast.Module]) -> set[str]:
    """Every error code that is written somewhere, however it gets its name `code`.

    A class's or dataclass's `code = "…"`; an argument `code="…"`; an argument in the place of a
    parameter `code`; a value of a dict's "code" or "error_code"; a value of FRAMEWORK_CODES.
    """
    places = dict(place for tree in trees for place in _code_parameters(tree))
    return {
        node.value
        for tree in trees
        for node in _code_expressions(tree, places)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def _code_parameters(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Functions and classes that take a `code`, and the place it has among their arguments."""
    methods = {
        function: parent
        for parent in ast.walk(tree)
        if isinstance(parent, ast.ClassDef)
        for function in parent.body
        if isinstance(function, ast.FunctionDef)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in node.args.args if argument.arg != "self"]
            name = methods[node].name if node.name == "__init__" else node.name
        elif isinstance(node, ast.ClassDef):
            fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
            names = [field.target.id for field in fields if isinstance(field.target, ast.Name)]
            name = node.name
        else:
            continue
        if "code" in names:
            yield name, names.index("code")


def _code_expressions(tree: ast.Module, places: dict[str, int]) -> Iterator[ast.expr | None]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            named = {target.id for target in targets if isinstance(target, ast.Name)}
            if "code" in named:
                yield node.value
            if "FRAMEWORK_CODES" in named and isinstance(node.value, ast.Dict):
                yield from node.value.values
        elif isinstance(node, ast.keyword) and node.arg in ("code", "error_code"):
            yield node.value
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value in ("code", "error_code"):
                    yield value
        elif isinstance(node, ast.Call):
            called = node.func
            name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
            place = places.get(name)
            if place is not None and place < len(node.args):
                yield node.args[place]


def documented_codes() -> dict[str, list[str]]:
    """The cells of each row of errors.md whose first cell is a code."""
    rows = [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in (DOCS / "errors.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    return {cells[0].strip("`"): cells[1:] for cells in rows}


def documented_settings() -> set[str]:
    return set(re.findall(r"^\| `(LORAWRIGHT_\w+)`", (DOCS / "settings.md").read_text(), re.M))


def test_every_error_code_is_documented_and_no_other() -> None:
    in_code, in_docs = codes_in(sources()), set(documented_codes())
    assert sorted(in_code - in_docs) == [], "codes that docs/errors.md does not explain"
    assert sorted(in_docs - in_code) == [], "codes in docs/errors.md that are nowhere in the code"


def test_a_code_is_found_however_it_is_written() -> None:
    sample = """
class InFamily(Exception):
    code = "class_body"

@dataclass
class Problem:
    pointer: str
    detail: str
    code: str = "field_default"

class Refused(Exception):
    def __init__(self, code, reason): ...

class Intake:
    def reject(self, name, code): ...

def refuse(archive, code): ...

FRAMEWORK_CODES = {418: "framework"}
values = {"error_code": "in_a_dict"}
answer(code="by_keyword")
raise Refused("to_a_class", "reason")
intake.reject("name", "to_a_method")
refuse("zip", "to_a_function")
Problem("/x", "detail", "by_place")
"""
    assert codes_in([ast.parse(sample)]) == {
        "class_body",
        "field_default",
        "framework",
        "in_a_dict",
        "by_keyword",
        "to_a_class",
        "to_a_method",
        "to_a_function",
        "by_place",
    }


def test_documented_statuses_are_those_of_the_answers() -> None:
    answers = [
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, errors.RequestError | errors.ServiceUnavailable)
    ]
    told = documented_codes()
    wrong = {
        cls.code: told[cls.code][0]
        for cls in answers
        if cls is not errors.RequestError and str(_status(cls)) not in told[cls.code][0]
    }
    assert wrong == {}


def _status(cls: type[LorawrightError]) -> int:
    return status_of(cls("only its class matters"))


def test_every_setting_is_documented_and_no_other() -> None:
    assert documented_settings() == {f"LORAWRIGHT_{n.upper()}" for n in Settings.model_fields}


@pytest.mark.parametrize("name", list(make_docs.commands()))
def test_every_command_is_documented_with_its_options(name: str) -> None:
    page = (DOCS / "cli.md").read_text()
    assert f"\n## {name}\n" in page
    section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
    missing = [option for option in _options(name) if f"`{option}`" not in section]
    assert missing == []


def _options(command: str) -> list[str]:
    return [
        word
        for parameter in make_docs.commands()[command].params
        if parameter.param_type_name == "option" and parameter.name != "help"
        for word in (*parameter.opts, *parameter.secondary_opts)
    ]


@pytest.mark.parametrize("path", list(make_docs.pages()), ids=lambda path: path.name)
def test_generated_pages_are_as_the_code_is_now(path: Path) -> None:
    fresh = make_docs.pages()[path]
    same = path.exists() and path.read_text() == fresh
    assert same, f"docs/{path.name} is out of date: run `python -m tools.make_docs`"


def test_make_targets_in_the_prose_of_the_readme_are_in_the_makefile() -> None:
    """Those in its blocks are seen to by tests/docs, as all commands are."""
    targets = set(re.findall(r"^([a-z][\w-]*):", (REPOSITORY / "Makefile").read_text(), re.M))
    named = set(re.findall(r"\bmake ([a-z][\w-]*)", "\n".join(_quoted())))
    assert {"demo", "up"} <= named
    assert sorted(named - targets) == []


def _quoted() -> list[str]:
    """What stands between single backticks in the README's prose."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", README, flags=re.S))


def test_links_between_pages_lead_to_a_file_and_a_heading() -> None:
    pages = [REPOSITORY / "README.md", *DOCS.rglob("*.md"), *EXAMPLES.rglob("*.md")]
    broken = [
        f"{page.relative_to(REPOSITORY)}: {link}#{heading}"
        for page in pages
        for link, heading in LINK.findall(page.read_text())
        if "://" not in link and not _leads_somewhere(page, link, heading)
    ]
    assert broken == []


def _leads_somewhere(page: Path, link: str, heading: str) -> bool:
    target = page.parent / link if link else page
    if not target.exists():
        return False
    return not heading or heading in _anchors(target)


def _anchors(page: Path) -> set[str]:
    """What headings are called in addresses, as GitHub makes it of their words."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
