"""What the check of a LoRA file found, and how it is told as JSON."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from app.lora_format.digest import MetadataDigest
from app.lora_format.errors import LoraFileError
from app.lora_format.family import Family
from app.lora_format.hashes import FileHashes
from app.lora_format.parts import Layout

FileKind = Literal["lora", "locon", "dora", "loha", "lokr"]
# Names of each list that are told; the counts beside them are of all.
LISTED = 100


@dataclass(frozen=True)
class Contents:
    """The modules of a file that could be put together.

    Attributes:
        kinds: what they are; `dora` beside another when some have magnitudes.
        ranks, alphas: how many modules have each.
        networks: how many modules of the base it changes in each network.
        unmatched: modules and tensors that belong to nothing in the base.
        misfits: modules whose base weight has another shape, each with the reason.
        trigger: the word that token vectors in the file stand for.
    """

    layout: Layout
    kinds: tuple[FileKind, ...]
    modules: int
    ranks: Counter[int]
    alphas: Counter[float]
    networks: Counter[str] = field(default_factory=Counter)
    unmatched: tuple[str, ...] = ()
    misfits: tuple[str, ...] = ()
    trigger: str | None = None

    @property
    def matched(self) -> int:
        """Modules of the base that it changes."""
        return self.networks.total()

    @property
    def rank(self) -> int:
        """Of most modules."""
        return self.ranks.most_common(1)[0][0]

    @property
    def alpha(self) -> float:
        """Of most modules."""
        return self.alphas.most_common(1)[0][0]


@dataclass(frozen=True)
class LoraFileReport:
    """A sound file.

    Attributes:
        family: of the model it was made for; None when nothing tells it.
        architecture: the one it was held against, as the catalog names it; None when none was.
        contents: None when its tensors' names are not understood.
        dtypes: those of its tensors, ascending.
        problems: why it cannot be used; empty when it can.
    """

    family: Family | None
    architecture: str | None
    contents: Contents | None
    tensors: int
    dtypes: tuple[str, ...]
    nbytes: int
    metadata: dict[str, str]
    digest: MetadataDigest
    hashes: FileHashes
    problems: tuple[LoraFileError, ...]

    def as_json(self) -> dict[str, Any]:
        """What the API answers and stores; the metadata itself is not in it."""
        contents, hashes = self.contents, self.hashes
        return {
            "usable": not self.problems,
            "problems": [{"code": each.code, "detail": str(each)} for each in self.problems],
            "family": self.family and {"id": self.family.id, "title": self.family.title},
            "architecture": self.architecture,
            "layout": contents and contents.layout,
            "kinds": list(contents.kinds) if contents else [],
            "modules": contents.modules if contents else 0,
            "matched": contents.matched if contents else 0,
            "networks": dict(sorted(contents.networks.items())) if contents else {},
            "unmatched": _listed(contents.unmatched if contents else ()),
            "misfits": _listed(contents.misfits if contents else ()),
            "rank": contents.rank if contents else None,
            "alpha": contents.alpha if contents else None,
            "ranks": sorted(contents.ranks)[:LISTED] if contents else [],
            "alphas": sorted(contents.alphas)[:LISTED] if contents else [],
            "trigger": contents.trigger if contents else None,
            "tensors": self.tensors,
            "dtypes": list(self.dtypes),
            "bytes": self.nbytes,
            "hashes": {
                "sha256": hashes.sha256,
                "autov2": hashes.autov2,
                "autov3": hashes.autov3,
                "data_sha256": hashes.data_sha256,
                "model_hash_matches": hashes.model_hash_matches,
                "legacy_hash_matches": hashes.legacy_hash_matches,
            },
            "training": self.digest.training,
            "tags": [{"tag": tag, "count": count} for tag, count in self.digest.tags],
            "modelspec": self.digest.modelspec,
            "trigger_phrases": [
                {"phrase": phrase, "source": source}
                for phrase, source in self.digest.trigger_phrases
            ],
        }


def _listed(names: tuple[str, ...]) -> dict[str, Any]:
    return {"count": len(names), "names": list(names[:LISTED])}
