"""Where a job of each kind is read."""

PATHS: dict[str, str] = {
    "ingest": "/v1/jobs",
    "captioning": "/v1/captionings",
    "training": "/v1/trainings",
    "generation": "/v1/generations",
    "comparison": "/v1/comparisons",
    "lora_tool": "/v1/lora-tools",
}
