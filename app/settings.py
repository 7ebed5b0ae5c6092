"""Every LORAWRIGHT_* variable: typed, documented, in one class, read once at the edge."""

from functools import cache
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

REPOSITORY = Path(__file__).resolve().parent.parent
MIB = 1024 * 1024
GIB = 1024 * MIB


def _networks(told: object) -> object:
    """The networks of a list parted by commas."""
    if not isinstance(told, str):
        return told
    return tuple(str(ip_network(one.strip())) for one in told.split(",") if one.strip())


# Not JSON, as the settings would have it.
Networks = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_networks)]


class Settings(BaseSettings):
    """The whole configuration. Sizes are in bytes, times in seconds, lengths in pixels."""

    model_config = SettingsConfigDict(env_prefix="LORAWRIGHT_", extra="ignore", frozen=True)

    # --- servers ---------------------------------------------------------------------------
    database_url: str = Field(
        default="postgresql+psycopg://lorawright@localhost:5432/lorawright",
        description="Postgres, as an SQLAlchemy URL with the psycopg driver.",
    )
    database_pool_size: int = Field(
        default=40, ge=1, le=500, description="Connections a process keeps; one a request thread."
    )
    redis_url: str = Field(
        default="redis://localhost:6379/0", description="Redis: Celery's broker, and live events."
    )
    s3_endpoint_url: str | None = Field(
        default=None, description="An S3-compatible server; unset means Amazon's own."
    )
    s3_public_endpoint_url: str | None = Field(
        default=None,
        description="The address of the same server as clients see it, for presigned URLs; "
        "unset means the endpoint itself.",
    )
    s3_region: str = Field(default="us-east-1", description="Region that signatures name.")
    s3_bucket: str = Field(default="lorawright", description="The bucket that holds every object.")
    s3_access_key_id: str | None = Field(
        default=None, description="Unset means boto3's own chain of credentials."
    )
    s3_secret_access_key: SecretStr | None = Field(default=None, description="Its secret.")
    presigned_url_seconds: int = Field(
        default=3600, ge=60, le=604_800, description="How long a download address works."
    )

    # --- what is offered -------------------------------------------------------------------
    catalog_path: Path = Field(
        default=REPOSITORY / "assets" / "catalog.toml",
        description="TOML file of base models and captioners.",
    )
    deny_list: Path | None = Field(
        default=None,
        description="TOML file of words and patterns that no prompt may have; unset refuses none.",
    )
    content_check: str | None = Field(
        default=None,
        description="The operator's own check of prompts, uploads and pictures, as `module:name`.",
    )
    safety_checker: str | None = Field(
        default=None,
        description="A diffusers safety checker that sees every drawn picture: a folder or hub id.",
    )
    default_base_model: str = Field(
        default="sdxl-1.0", description="Catalog id used when a request names none."
    )
    default_captioner: str = Field(
        default="blip-large", description="Catalog id used when a request names none."
    )

    # --- the API ---------------------------------------------------------------------------
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log line written."
    )
    metrics_token: SecretStr | None = Field(
        default=None,
        min_length=16,
        description="Whoever sends it as a bearer token may read `/metrics`.",
    )
    metrics_networks: Networks = Field(
        default=("127.0.0.0/8", "::1/128"),
        description="Networks from which `/metrics` is read without it, unless a proxy is between.",
    )
    max_json_body_bytes: int = Field(
        default=1 * MIB, ge=1024, description="Largest JSON body; more answers 413."
    )

    max_picture_body_bytes: int = Field(
        default=32 * MIB,
        ge=1024,
        description="Largest JSON body of a request that may carry pictures, such as a generation.",
    )

    requests_per_minute: int = Field(
        default=6000,
        ge=0,
        description="Most requests of one account within a minute; more answer 429. 0 sets no "
        "limit.",
    )
    idempotency_seconds: float = Field(
        default=24 * 3600,
        gt=0,
        description="How long the answer to a request with an `Idempotency-Key` is given again.",
    )
    max_webhooks_per_account: int = Field(
        default=20, ge=0, description="Most webhook endpoints; an account may have another limit."
    )
    session_secret: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="What the console's session cookies are signed with, the same for every API "
        "process; unset means a random one for each.",
    )
    session_secret_also_accepted: SecretStr | None = Field(
        default=None,
        min_length=32,
        description="Another secret whose cookies are accepted while the first is changed: the "
        "next one, then the one before.",
    )
    console_session_seconds: int = Field(
        default=7 * 24 * 3600, ge=60, description="How long a sign-in to the console lasts."
    )
    webhook_allow_http: bool = Field(
        default=False, description="Whether webhooks may go to http:// as well."
    )
    webhook_allowed_networks: Networks = Field(
        default=(),
        description="Networks that webhooks may go to although they are not public: "
        "`10.1.0.0/16,fd00::/8`.",
    )
    webhook_ca_file: Path | None = Field(
        default=None,
        description="Certificates (PEM) that receivers' are checked against; unset means the "
        "usual public ones.",
    )
    webhook_timeout_seconds: float = Field(
        default=20, gt=0, description="How long a receiver may take for one delivery."
    )
    picture_keep_seconds: float | None = Field(
        default=None,
        gt=0,
        description="How long pictures of generations and comparisons are kept; unset means until "
        "they are deleted.",
    )
    input_keep_seconds: float | None = Field(
        default=None,
        gt=0,
        description="How long pictures sent to `/v1/inputs` are kept; unset means until they are "
        "deleted.",
    )
    webhook_keep_seconds: float = Field(
        default=30 * 24 * 3600, gt=0, description="How long deliveries are kept."
    )
    audit_keep_seconds: float = Field(
        default=400 * 24 * 3600, gt=0, description="How long the audit log keeps an entry."
    )
    openai_wait_seconds: float = Field(
        default=300,
        gt=0,
        description="How long `/v1/images/generations` waits for its pictures before it gives up.",
    )

    # --- uploads ---------------------------------------------------------------------------
    max_upload_bytes: int = Field(
        default=1 * GIB, ge=MIB, description="Largest multipart upload of pictures; more is 413."
    )
    max_upload_files: int = Field(
        default=1000, ge=1, le=100_000, description="Most files in one multipart upload."
    )
    max_image_bytes: int = Field(
        default=64 * MIB, ge=1024, description="Largest picture file, in an archive too."
    )
    max_image_pixels: int = Field(
        default=100_000_000, ge=4096, description="Most pixels (width × height) of a picture."
    )
    min_image_side_px: int = Field(
        default=16, ge=1, description="A picture with a shorter side is rejected."
    )
    max_archive_members: int = Field(
        default=10_000, ge=1, description="Most members of an archive."
    )
    max_archive_unpacked_bytes: int = Field(
        default=20 * GIB, ge=MIB, description="Most bytes an archive may unpack to."
    )
    max_archive_ratio: int = Field(
        default=200,
        ge=2,
        description="Most unpacked bytes for each packed one, over a whole archive member.",
    )
    max_images_per_dataset: int = Field(
        default=5000, ge=1, description="Most pictures in one dataset."
    )
    max_lora_bytes: int = Field(
        default=2 * GIB, ge=MIB, description="Largest LoRA file uploaded or inspected; more is 413."
    )
    max_archive_bytes: int = Field(
        default=20 * GIB, ge=MIB, description="Largest archive sent straight to storage, in parts."
    )
    upload_expires_seconds: int = Field(
        default=48 * 3600,
        ge=60,
        description="How long such an archive may take to arrive; then its parts are removed.",
    )
    max_caption_chars: int = Field(default=2000, ge=1, description="Longest caption.")

    # --- quotas, each of which an account may have another of ------------------------------
    max_datasets_per_account: int = Field(default=1000, ge=0, description="Most datasets.")
    max_loras_per_account: int = Field(
        default=10_000, ge=0, description="Most LoRAs; a training publishes its own all the same."
    )
    max_api_keys_per_account: int = Field(default=100, ge=1, description="Most API keys that work.")
    max_stored_bytes_per_account: int = Field(
        default=1024 * GIB, ge=0, description="Most bytes stored; more uploads are refused."
    )
    max_queued_per_account: int = Field(
        default=1000,
        ge=1,
        description="Most jobs that wait at the same time, uploads' own work not counted.",
    )
    max_gpu_seconds_per_month: float | None = Field(
        default=None,
        ge=0,
        description="Most GPU seconds in a calendar month, UTC: no job is taken after that; unset "
        "sets no limit.",
    )

    # --- requests --------------------------------------------------------------------------
    max_loras_per_generation: int = Field(
        default=5, ge=1, le=5, description="Most LoRAs applied together."
    )
    max_images_per_generation: int = Field(
        default=8, ge=1, le=8, description="Most pictures of one generation request."
    )
    max_comparison_images: int = Field(
        default=100, ge=1, le=1000, description="Most pictures of one comparison."
    )
    max_prompt_chars: int = Field(
        # A JPEG has room for so much beside the rest of its receipt.
        default=4000,
        ge=1,
        le=4000,
        description="Longest prompt.",
    )
    max_deadline_seconds: float = Field(
        default=30 * 24 * 3600, gt=0, description="Farthest deadline that a job may have."
    )
    max_training_steps: int = Field(
        default=100_000, ge=1, description="Most optimizer steps of one training."
    )

    lora_conversion_wait_seconds: float = Field(
        default=20,
        ge=0,
        le=60,
        description="How long a download of another layout waits for its conversion; then it "
        "answers 503, to be asked again.",
    )

    # --- jobs ------------------------------------------------------------------------------
    lease_seconds: float = Field(
        default=60, gt=0, description="A worker silent for so long has lost its job."
    )
    heartbeat_seconds: float = Field(
        default=10, gt=0, description="How often a worker renews its lease."
    )
    sweep_seconds: float = Field(
        default=15, gt=0, description="How often the sweeper returns lost jobs and wakes queues."
    )
    max_attempts: int = Field(
        default=3, ge=1, description="Runs a job may start before it fails with `worker_lost`."
    )
    retry_backoff_seconds: float = Field(
        default=10, ge=0, description="Pause before the second attempt; doubles with each more."
    )
    retry_backoff_most_seconds: float = Field(
        default=600, ge=0, description="Longest pause before another attempt."
    )
    max_running_per_account: int = Field(
        default=8, ge=1, description="Most jobs of one account that run at the same time."
    )
    affinity_look_ahead: int = Field(
        default=16,
        ge=1,
        le=100,
        description="How many of an account's oldest waiting jobs a worker looks at for one whose "
        "base model and LoRAs it has loaded; the oldest is passed over as often at most.",
    )
    graceful_stop_seconds: float = Field(
        default=25, gt=0, description="How long a stopping worker may take to save its work."
    )
    event_stream_seconds: float = Field(
        default=3600, gt=0, description="An event stream is closed, to be resumed, after so long."
    )

    # --- what is kept ----------------------------------------------------------------------
    training_state_keep_seconds: float = Field(
        default=14 * 24 * 3600,
        ge=0,
        description="How long the saved state of a failed or canceled training is kept for a "
        "retry.",
    )
    removal_delay_seconds: float = Field(
        default=0,
        ge=0,
        description="How long objects that nothing needs any more are left in storage: at least as "
        "long as a backup takes, so that its copy of the bucket has all that its database names.",
    )
    orphan_age_seconds: float = Field(
        default=24 * 3600,
        ge=0,
        description="An object this old that no row and no unfinished job needs is removed.",
    )
    orphan_sweep_seconds: float = Field(
        default=24 * 3600, gt=0, description="How often storage is searched for such objects."
    )

    # --- workers ---------------------------------------------------------------------------
    work_dir: Path = Field(
        default=Path(".lorawright/work"), description="Where a worker keeps jobs' files."
    )
    captioning_batch_size: int = Field(default=16, ge=1, le=256, description="Pictures at a time.")
    max_batch_images: int = Field(
        default=8,
        ge=1,
        le=32,
        description="Pictures of waiting generations that a worker claims to draw together.",
    )
    lora_cache_bytes: int = Field(
        default=4 * GIB, ge=MIB, description="Host memory for parsed LoRAs."
    )
    lora_disk_cache_bytes: int = Field(
        default=32 * GIB, ge=MIB, description="Disk for the LoRA files a worker has fetched."
    )
    pipeline_cache_count: int = Field(
        default=1, ge=1, le=16, description="Base models a worker keeps loaded."
    )
    pipeline_cache_bytes: int = Field(
        default=64 * GIB,
        ge=MIB,
        description="Memory for the weights of loaded base models; where a graphics card is too "
        "small for several, the least recently used go earlier.",
    )
    base_model_cache_bytes: int = Field(
        default=128 * GIB,
        ge=MIB,
        description="Disk for the base model files that a worker has fetched from storage; the "
        "least recently used go first, but none that is in use.",
    )
    training_state_seconds: float = Field(
        default=120, gt=0, description="How often a training saves a state it can go on from."
    )
    training_processes: int = Field(
        default=1, ge=1, le=64, description="Devices that one training uses together."
    )
    metrics_port: int = Field(
        default=0,
        ge=0,
        le=65_535,
        description="Where each worker process serves its metrics; 0 serves none.",
    )
    metrics_host: str = Field(
        default="127.0.0.1", description="The address on which it does; `0.0.0.0` is all of them."
    )
    torch_threads: int = Field(
        default=0, ge=0, le=256, description="CPU threads of a worker's maths; 0 leaves it be."
    )


@cache
def get_settings() -> Settings:
    """The process's settings, read from the environment the first time."""
    return Settings()
