"""The hashes by which web UIs and model sites know a LoRA file."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from app.lora_format.header import Header

# sd-scripts' first kind of hash reads this window of a file and keeps eight digits.
_LEGACY_WINDOW = (0x100000, 0x110000)
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True)
class FileHashes:
    """SHA-256, in hex.

    Attributes:
        sha256: of the whole file.
        data_sha256: of what follows the header; equal in files that differ in metadata alone.
        model_hash_matches, legacy_hash_matches: whether the file's own `sshs_model_hash` and
            `sshs_legacy_hash` are those of its content; None where it has none. They go stale when
            a program changes the tensors and keeps the metadata.
    """

    sha256: str
    data_sha256: str
    model_hash_matches: bool | None
    legacy_hash_matches: bool | None

    @property
    def autov2(self) -> str:
        """The first ten digits of the file's: what model sites call AutoV2."""
        return self.sha256[:10]

    @property
    def autov3(self) -> str:
        """The first twelve digits of the data's: AutoV3, and what web UIs show beside a LoRA."""
        return self.data_sha256[:12]


def file_hashes(path: Path, header: Header) -> FileHashes:
    """Read the file once, and the legacy window where the file names its hash."""
    whole, data = hashlib.sha256(), hashlib.sha256()
    with path.open("rb") as file:
        whole.update(file.read(header.data_at))
        while chunk := file.read(_CHUNK_BYTES):
            whole.update(chunk)
            data.update(chunk)
    told_model = header.metadata.get("sshs_model_hash")
    told_legacy = header.metadata.get("sshs_legacy_hash")
    return FileHashes(
        sha256=whole.hexdigest(),
        data_sha256=data.hexdigest(),
        # Some programs write it with the prefix that web UIs knew in their beginnings.
        model_hash_matches=None
        if told_model is None
        else told_model.lower().removeprefix("0x") == data.hexdigest(),
        legacy_hash_matches=None
        if told_legacy is None
        else told_legacy.lower() == _legacy_hash(path, header),
    )


def _legacy_hash(path: Path, header: Header) -> str:
    """Of a window of the file as it would be with its `ss_*` metadata alone."""
    training = {name: value for name, value in header.metadata.items() if name.startswith("ss_")}
    entries = {
        name: {"dtype": dtype, "shape": list(shape), "data_offsets": list(header.spans[name])}
        for name, (dtype, shape) in header.tensors.items()
    }
    words = json.dumps(
        {"__metadata__": training, **entries}, separators=(",", ":"), ensure_ascii=False
    ).encode()
    # The data begins at a multiple of eight bytes.
    before = 8 + len(words) + -len(words) % 8
    begin, end = (max(place - before, 0) for place in _LEGACY_WINDOW)
    window = b""
    if before > _LEGACY_WINDOW[0]:
        plain = len(words).to_bytes(8, "little") + words.ljust(before - 8)
        window = plain[slice(*_LEGACY_WINDOW)]
    with path.open("rb") as file:
        file.seek(header.data_at + begin)
        window += file.read(end - begin)
    return hashlib.sha256(window).hexdigest()[:8]
