"""What a result says of itself: what its inputs said, where that still holds, and what was done."""

from collections.abc import Mapping, Sequence

from app.lora_format.adapter_config import METADATA_KEY
from worker.ml.lora_files.modules import Lora, LoraModule

_SDXL = "stable-diffusion-xl-v1-base"
# Hashes and configurations are of the file they stand in.
_OF_ONE_FILE = (
    "sshs_model_hash",
    "sshs_legacy_hash",
    "modelspec.hash_sha256",
    METADATA_KEY,
    "format",
)
# What several LoRAs for the same base have in common, and the result too.
_OF_BASE = (
    "ss_v2",
    "ss_base_model_version",
    "ss_sd_model_name",
    "ss_sd_model_hash",
    "ss_new_sd_model_hash",
    "modelspec.architecture",
    "modelspec.implementation",
    "modelspec.prediction_type",
    "modelspec.resolution",
    "modelspec.sai_model_spec",
)
_TRIGGER = "modelspec.trigger_phrase"


def without_config(metadata: Mapping[str, str]) -> dict[str, str]:
    """A file's metadata without what is true of that file alone; hashes are made anew."""
    return {name: value for name, value in metadata.items() if name not in _OF_ONE_FILE}


def of_resized(source: Mapping[str, str], result: Lora, done: str) -> dict[str, str]:
    """The source's, with the new ranks, and what was done in front of its training comment."""
    found = without_config(source)
    return found | of_network(result) | _comment(done, found.get("ss_training_comment"))


def of_merged(
    sources: Sequence[Mapping[str, str]], result: Lora, titles: Sequence[str], done: str
) -> dict[str, str]:
    """What all inputs say alike of their base, their trigger phrases, and their titles."""
    found = {
        name: sources[0][name]
        for name in _OF_BASE
        if name in sources[0] and len({source.get(name) for source in sources}) == 1
    }
    triggers = [source[_TRIGGER] for source in sources if source.get(_TRIGGER)]
    if triggers:
        found[_TRIGGER] = ", ".join(dict.fromkeys(triggers))
    found["modelspec.merged_from"] = ", ".join(titles)
    return found | of_network(result) | _comment(done, None)


def of_extracted(architecture: str, result: Lora, done: str) -> dict[str, str]:
    """Of a LoRA that no training made."""
    sdxl = architecture == "sdxl"
    return {
        "ss_v2": "False",
        "ss_base_model_version": "sdxl_base_v1-0" if sdxl else architecture,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{_SDXL if sdxl else architecture}/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        **of_network(result),
        **_comment(done, None),
    }


def of_network(lora: Lora) -> dict[str, str]:
    """`ss_network_…` of a LoRA of pairs: its rank and alpha, or sd-scripts' word "Dynamic"."""
    if not all(isinstance(module, LoraModule) for module in lora.modules.values()):
        return {}
    ranks = {module.rank for module in lora.modules.values()}
    alphas = {module.alpha for module in lora.modules.values()}
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(ranks.pop()) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": f"{alphas.pop():g}" if len(alphas) == 1 else "Dynamic",
        "ss_network_args": '{"dora_wd": "True"}' if _has_dora(lora) else "{}",
    }


def _has_dora(lora: Lora) -> bool:
    return any(module.dora_scale is not None for module in lora.modules.values())


def _comment(done: str, before: str | None) -> dict[str, str]:
    kept = "" if before in (None, "", "None") else f"; {before}"
    return {"ss_training_comment": done + kept}
