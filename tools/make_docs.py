"""Write what the code itself can tell: settings, commands, metrics, the OpenAPI document.

    python -m tools.make_docs

tests/test_docs.py fails where a page is no longer what this writes.
"""

import inspect
import json
import re
from pathlib import Path
from typing import Any, get_args

import typer.main
from pydantic.fields import FieldInfo

from app.cli.main import app as command_line
from app.generations.schedulers import SCHEDULERS
from app.main import create_app
from app.metrics.api import API
from app.metrics.work import WORK
from app.settings import REPOSITORY, Settings
from tools.dashboard import dashboard
from worker.metrics import WORKER

DOCS = REPOSITORY / "docs"
SECTION = re.compile(r"^ +# --- (.+?) -+$")
FIELD = re.compile(r"^ {4}(\w+): ")
UNITS = {
    "_bytes": "bytes",
    "_seconds": "s",
    "_px": "px",
    "_pixels": "pixels",
    "_chars": "characters",
}

SETTINGS_HEAD = """\
# Settings

Every setting is an environment variable, read once when a process starts. The API, the workers
and beat read the same ones; give them the same values. `lorawright up` fills in the addresses,
secrets and default models of its own stack, and a variable that is set wins over them. A value
outside its range stops the process at its start, with a message that names the setting.

The `lorawright` command reads two more, `LORAWRIGHT_URL` and `LORAWRIGHT_API_KEY`: see
[the command line](cli.md).

This page is written by `python -m tools.make_docs` from `app/settings.py`."""

METRICS_BEGIN = "<!-- generated -->\n"
METRICS_END = "<!-- /generated -->"
METRICS = {
    "Of each API process": API,
    "Of queues, jobs and webhooks, told alike by every API process": WORK,
    "Of each worker process": WORKER,
}

CLI_HEAD = """\
# The command line

`lorawright` is installed with the package; after `make demo`, `make up` or `make test` it is in
`.venv/bin`. `train`, `generate`, `jobs` and `lora` use the REST API alone, so they work against
any server; `lora inspect` needs none:

<!-- not run: the README and the guides run both, on the stack of their folder -->
```sh
export LORAWRIGHT_URL=https://loras.example.com LORAWRIGHT_API_KEY=lw_live_…
lorawright train my-pictures/ --trigger inkstyle --name ink
lorawright generate "inkstyle, a red apple" --lora ink:0.7 --seed 1
```

Without `--url` they use the stack that runs on `--data-dir`, and its first admin key. `doctor`,
`migrate` and `key create` go to the database of `LORAWRIGHT_DATABASE_URL` instead, and need no
key; a key made without `--scope` may do everything but administer. `bucket create` makes the
bucket of `LORAWRIGHT_S3_BUCKET`, and `base-model add` goes to it;
[base-models.md](base-models.md) explains what that is for.

A command that fails says why on standard error and ends with 1; wrong options end with 2. An
error of the API shows its status and its code, which [errors.md](errors.md) explains.

This page is written by `python -m tools.make_docs` from `app/cli/`."""

SCHEDULERS_HEAD = """\
# Schedulers

A scheduler decides at which noise levels the UNet is asked, and what becomes of its answer. A
generation names one in `scheduler`; the catalog names each base model's own, for requests that
name none. Betas and what the UNet foretells always come from the base model.

Those that are not random come ever closer to one picture as `steps` grow. The random ones add noise
on the way: the same seed gives the same picture again, but another number of steps gives another
one. Two calls of the UNet a step cost twice the time for the same `steps`.

`_karras` and `_exponential` lay the steps out by noise level rather than by time, `_trailing`
counts them from the noisy end, which web UIs call SGM Uniform. A base model of zero terminal SNR
(most v-prediction models) begins at pure noise, which not every scheduler can; asking for one of
those answers 422 with the names of the others.

| `scheduler` | elsewhere | UNet calls a step | random | from pure noise | most steps | |
|---|---|---|---|---|---|---|"""

SCHEDULERS_FOOT = """\

What web UIs have and this list has not:

* *Beta* and other layouts of steps that need scipy, which the workers do without. (LMS needs it in
  diffusers; here its coefficients, integrals of polynomials, are exact.)
* *DPM++ SDE* is diffusers' single-step solver with noise; the variant with a Brownian tree needs
  torchsde, and draws its noise on the device, so that a picture would depend on the machine.
* EDM's schedulers are for models trained with EDM's own scaling, IPNDM's for other noise schedules;
  with an SDXL they would draw noise.
* *CFG++* variants, *Restart* and the like are not in diffusers.

This page is written by `python -m tools.make_docs` from `app/generations/schedulers.py`."""


def pages() -> dict[Path, str]:
    """Each generated file and its content."""
    return {
        DOCS / "settings.md": settings_page(),
        DOCS / "cli.md": cli_page(),
        DOCS / "schedulers.md": schedulers_page(),
        DOCS / "openapi.json": openapi_document(),
        DOCS / "monitoring.md": monitoring_page(),
        REPOSITORY / "deploy" / "grafana" / "lorawright.json": dashboard(),
    }


def monitoring_page() -> str:
    """The page, of which only the tables of metrics are written here."""
    page = (DOCS / "monitoring.md").read_text(encoding="utf-8")
    before, rest = page.split(METRICS_BEGIN)
    _, after = rest.split(METRICS_END)
    lines = []
    for title, group in METRICS.items():
        lines += [f"\n### {title}\n", "| metric | type | labels | meaning |", "|---|---|---|---|"]
        for one in group.described:
            labels = ", ".join(f"`{label}`" for label in one.labels)
            lines.append(_row([f"`{one.name}`", one.kind, labels, one.help]))
    return before + METRICS_BEGIN + "\n".join([*lines, "", METRICS_END]) + after


def schedulers_page() -> str:
    """Every scheduler and what is known of it."""
    lines = [SCHEDULERS_HEAD]
    for name, scheduler in SCHEDULERS.items():
        cells = (
            str(scheduler.calls),
            "yes" if scheduler.random else "",
            "yes" if scheduler.pure_noise else "no",
            "" if scheduler.max_steps is None else str(scheduler.max_steps),
        )
        lines.append(_row([f"`{name}`", scheduler.called, *cells, scheduler.note]))
    return "\n".join([*lines, SCHEDULERS_FOOT]) + "\n"


def openapi_document() -> str:
    """The contract as JSON, sorted, so that a change of it shows as a small diff."""
    document = create_app().openapi()
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def settings_page() -> str:
    """Every setting in the order and under the headings of the class."""
    lines = [SETTINGS_HEAD]
    for line in inspect.getsource(Settings).splitlines():
        if section := SECTION.match(line):
            title = section[1][0].upper() + section[1][1:]
            lines += [
                f"\n## {title}\n",
                "| variable | default | range | meaning |",
                "|---|---|---|---|",
            ]
        elif (field := FIELD.match(line)) and field[1] in Settings.model_fields:
            lines.append(_setting(field[1], Settings.model_fields[field[1]]))
    return "\n".join(lines) + "\n"


def _setting(name: str, field: FieldInfo) -> str:
    cells = [f"`LORAWRIGHT_{name.upper()}`", _default(name, field.default), _range(name, field)]
    return _row([*cells, field.description or ""])


def _default(name: str, value: Any) -> str:
    if value is None:
        return "unset"
    if isinstance(value, Path) and value.is_relative_to(REPOSITORY):
        return f"`{value.relative_to(REPOSITORY)}` of the source"
    if name.endswith("_bytes"):
        return f"`{value}` ({_binary(value)})"
    return f"`{value}`"


def _binary(size: float) -> str:
    """A size in the largest binary unit that holds it whole: 1 GiB, 64 MiB."""
    for unit in ("bytes", "KiB", "MiB"):
        if size % 1024:
            return f"{size:g} {unit}"
        size /= 1024
    return f"{size:g} GiB"


def _range(name: str, field: FieldInfo) -> str:
    choices = [choice for choice in get_args(field.annotation) if isinstance(choice, str)]
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [
        f"{sign} {getattr(limit, kind)}"
        for limit in field.metadata
        for kind, sign in signs.items()
        if hasattr(limit, kind)
    ]
    unit = next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), "")
    return f"{', '.join(bounds)} {unit}".strip() if bounds else ""


def cli_page() -> str:
    """Every command with its arguments and options."""
    lines = [CLI_HEAD]
    for name, command in commands().items():
        arguments = " ".join(
            parameter.name.upper()
            for parameter in command.params
            if parameter.param_type_name == "argument"
        )
        usage = " ".join(part for part in (name, arguments, "[OPTIONS]") if part)
        lines += [f"\n## {name}\n", f"`{usage}`\n", inspect.cleandoc(command.help or "")]
        shown = [parameter for parameter in command.params if parameter.name != "help"]
        if shown:
            lines += ["\n| option | default | meaning |", "|---|---|---|"]
            lines += [_option(parameter) for parameter in shown]
    return "\n".join(lines).rstrip() + "\n"


def commands() -> dict[str, Any]:
    """Every command that does something, by its full name, in the order of the help."""
    return _commands_of("lorawright", typer.main.get_command(command_line))


def _commands_of(name: str, command: Any) -> dict[str, Any]:
    inner = getattr(command, "commands", None)
    if inner is None:
        return {name: command}
    found: dict[str, Any] = {}
    for word, each in inner.items():
        found |= _commands_of(f"{name} {word}", each)
    return found


def _option(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        spelled = f"`{parameter.name.upper()}`"
    else:
        spelled = ", ".join(f"`{word}`" for word in (*parameter.opts, *parameter.secondary_opts))
    meaning = parameter.help or ""
    limits = (("at least", parameter.min), ("at most", parameter.max))
    if told := " and ".join(f"{words} {limit}" for words, limit in limits if limit is not None):
        meaning += f" It is {told}."
    if parameter.envvar:
        meaning += f" Or `{parameter.envvar}`."
    return _row([spelled, _option_default(parameter), meaning])


def _option_default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        # A flag that is off and has no word for it says nothing.
        words = parameter.opts if value else parameter.secondary_opts
        return f"`{words[0]}`" if words else ""
    return f"`{value}`"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def main() -> None:
    """Write every page."""
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(REPOSITORY))


if __name__ == "__main__":
    main()
