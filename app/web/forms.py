"""Multipart forms, taken apart while they arrive: files go to disk, nothing large to memory.

FastAPI reads a form whole before a route's dependencies look at the API key. A route that asks for
the plain request instead checks what it must, then calls `receive_form`; whatever goes over a limit
is refused at that byte.
"""

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

import anyio
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.disk import write_all
from app.errors import (
    FieldProblem,
    FormUnreadable,
    Invalid,
    TooLarge,
    UnsupportedMediaType,
)

# So much is gathered before a thread parses and writes it: what a request holds in memory.
GATHERED_BYTES = 1024 * 1024
MAX_TEXT_BYTES = 64 * 1024
MAX_HEADERS = 8
MAX_HEADER_BYTES = 4096
MAX_NAME_CHARS = 255

Fields = TypeVar("Fields", bound=BaseModel)


@dataclass(frozen=True)
class FormFile:
    """A file of a form. `size` is what was sent; on disk is no more than its limit and a byte."""

    filename: str
    path: Path
    size: int


@dataclass
class Form:
    """A form that has arrived whole."""

    files: list[FormFile] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FormRules:
    """What a form may have.

    Attributes:
        file_field: the name of its file parts, of which there must be one at least.
        text_fields: the names its texts may have.
        max_files: most files, and the name of the setting that says so.
        max_file_bytes: most bytes of a file of that name, and the setting.
        drop_large: read on past a file over its limit, instead of refusing the form: `size` tells.
    """

    file_field: str
    max_files: tuple[int, str]
    max_file_bytes: Callable[[str], tuple[int, str]]
    text_fields: frozenset[str] = frozenset()
    drop_large: bool = False


@asynccontextmanager
async def staging_folder() -> AsyncIterator[Path]:
    """A temporary folder, gone afterwards with all it holds, however the request ends."""
    folder = await run_in_threadpool(tempfile.mkdtemp, prefix="lorawright-upload-")
    try:
        yield Path(folder)
    finally:
        with anyio.CancelScope(shield=True):
            await run_in_threadpool(shutil.rmtree, folder, ignore_errors=True)


async def receive_form(request: Request, folder: Path, rules: FormRules) -> Form:
    """Take a form's body apart as it arrives, its files into `folder`.

    Raises:
        UnsupportedMediaType: the body is no multipart form.
        FormUnreadable: it cannot be taken apart, or the connection broke before its end.
        TooLarge: too many files, or a file or text over its limit.
        Invalid: a part that has no place in this form, or no file at all.
        ServiceUnavailable: there is no room for its files.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise UnsupportedMediaType(
            f"Send multipart/form-data with the file part {rules.file_field!r}"
        )
    if not options.get(b"boundary"):
        raise FormUnreadable("The Content-Type header names no boundary")
    reader = _Reader(options[b"boundary"], folder, rules)
    try:
        gathered = bytearray()
        async for chunk in request.stream():
            gathered += chunk
            if len(gathered) >= GATHERED_BYTES:
                await run_in_threadpool(reader.write, bytes(gathered))
                gathered.clear()
        return await run_in_threadpool(reader.finish, bytes(gathered))
    except ClientDisconnect as error:
        raise FormUnreadable("The connection broke before the form's end") from error
    finally:
        reader.close()


def text_fields(schema: type[Fields], texts: dict[str, str]) -> Fields:
    """A form's texts under the limits that the same fields have in JSON.

    Raises:
        RequestValidationError: a value is wrong.
    """
    try:
        return schema.model_validate(texts)
    except ValidationError as error:
        wrong = [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
        raise RequestValidationError(wrong) from error


def form_body(
    file_field: str, description: str, *, many: bool = False, texts: type[BaseModel] | None = None
) -> dict[str, Any]:
    """What OpenAPI should say of a form that the framework does not see; for `openapi_extra`."""
    file: dict[str, Any] = {"type": "string", "contentMediaType": "application/octet-stream"}
    if many:
        file = {"type": "array", "items": file, "minItems": 1}
    properties = {} if texts is None else texts.model_json_schema()["properties"]
    schema = {
        "type": "object",
        "properties": {file_field: {**file, "description": description}, **properties},
        "required": [file_field],
    }
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


class _Reader:
    """The parser's callbacks: one part at a time, a file or a text."""

    def __init__(self, boundary: bytes, folder: Path, rules: FormRules) -> None:
        self._folder = folder
        self._rules = rules
        self._form = Form()
        self._ended = False
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._name = ""
        self._filename: str | None = None
        self._sink: FileIO | None = None
        self._path = folder
        self._size = 0
        self._limit = (0, "")
        self._text = bytearray()
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._open,
                    "on_part_data": self._data,
                    "on_part_end": self._end,
                    "on_end": self._end_form,
                },
                max_header_count=MAX_HEADERS,
                max_header_size=MAX_HEADER_BYTES,
            )
        except FormParserError as error:
            raise FormUnreadable(f"The form cannot be read: {error}") from error

    def write(self, data: bytes) -> None:
        """Parse the next bytes of the body."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise FormUnreadable(
                f"The form cannot be read: {error}. A part has at most {MAX_HEADERS} headers of "
                f"{MAX_HEADER_BYTES} bytes"
            ) from error

    def finish(self, data: bytes) -> Form:
        """Parse the last bytes; the whole form."""
        self.write(data)
        if not self._ended:
            raise FormUnreadable("The form ends in the middle: its last boundary is missing")
        if not self._form.files:
            name = self._rules.file_field
            detail = f"The form has no file; send at least one part {name!r} with a filename"
            raise Invalid(detail, [FieldProblem(f"/{name}", detail)])
        return self._form

    def close(self) -> None:
        """Close the file that an error left open."""
        if self._sink is not None:
            self._sink.close()

    def _begin(self) -> None:
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._text = bytearray()
        self._size = 0

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def _header_end(self) -> None:
        if self._header[0].lower() == b"content-disposition":
            self._disposition = bytes(self._header[1])
        self._header = (bytearray(), bytearray())

    def _open(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = _decoded(options.get(b"name", b""))
        told = options.get(b"filename")
        is_file = self._name == self._rules.file_field
        if not is_file and self._name not in self._rules.text_fields:
            known = ", ".join([self._rules.file_field, *sorted(self._rules.text_fields)])
            detail = f"The form has a part {self._name[:60]!r}; there are {known}"
            raise Invalid(detail, [FieldProblem(f"/{self._name[:60]}", detail)])
        if is_file and told is None:
            detail = f"The part {self._name!r} must be a file, with a filename"
            raise Invalid(detail, [FieldProblem(f"/{self._name}", detail)])
        if not is_file:
            self._filename = None
            return
        count, setting = self._rules.max_files
        number = len(self._form.files)
        if number >= count:
            raise TooLarge(
                f"The upload has {number + 1} files or more; the limit ({setting}) is {count}"
                if setting
                else f"The form has several files; {self._name!r} is one"
            )
        self._filename = _last_part(_decoded(told or b"")) or f"file-{number}"
        self._limit = self._rules.max_file_bytes(self._filename)
        self._path = self._folder / f"upload-{number:06d}"
        self._sink = FileIO(self._path, "w")

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._filename is None:
            self._text.extend(data[start:end])
            if len(self._text) > MAX_TEXT_BYTES:
                raise TooLarge(f"{self._name} has over {MAX_TEXT_BYTES} bytes, which is the limit")
            return
        limit, setting = self._limit
        room = max(0, limit + 1 - self._size)
        self._size += end - start
        if self._size > limit and not self._rules.drop_large:
            raise TooLarge(
                f"{self._filename} has {self._size} bytes or more; the limit ({setting}) is {limit}"
            )
        assert self._sink is not None, "a file part is open"
        write_all(self._sink, data[start : min(end, start + room)])

    def _end(self) -> None:
        if self._filename is None:
            self._form.texts[self._name] = _decoded(bytes(self._text))
            return
        assert self._sink is not None, "a file part is open"
        self._sink.close()
        self._form.files.append(FormFile(self._filename, self._path, self._size))
        self._sink = None

    def _end_form(self) -> None:
        self._ended = True


def _decoded(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")


def _last_part(name: str) -> str:
    """Browsers may send a path, of which the last part names the file."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(c if c.isprintable() else "_" for c in last)[-MAX_NAME_CHARS:]
