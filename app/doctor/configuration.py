"""Settings that contradict each other, or what they name."""

import os
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from app.catalog import Catalog, load_catalog
from app.doctor.findings import Finding, ok, problem, warning
from app.errors import LorawrightError
from app.settings import Settings, get_settings
from app.storage import get_store

# Variables that are no settings of the service.
OF_COMMANDS = frozenset({"LORAWRIGHT_URL", "LORAWRIGHT_API_KEY"})
LOOPBACKS = frozenset({"localhost", "127.0.0.1", "::1"})
LEAST_ORPHAN_AGE_SECONDS = 3600.0


def configuration(environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """What is set wrongly; one line where nothing is."""
    settings = get_settings()
    found = [
        *_unknown(environ),
        *_times(settings),
        *_addresses(settings),
        *_secrets(settings),
        *_catalog(settings),
    ]
    yield from found
    if not found:
        yield ok("settings", "none contradicts another")


def _unknown(environ: Mapping[str, str]) -> Iterator[Finding]:
    known = {f"LORAWRIGHT_{name.upper()}" for name in Settings.model_fields} | OF_COMMANDS
    for name in sorted(environ):
        if name.startswith("LORAWRIGHT_") and name not in known:
            yield warning(
                "settings", f"{name} is no setting, and does nothing", "see docs/settings.md"
            )


def _times(settings: Settings) -> Iterator[Finding]:
    if settings.lease_seconds < 2 * settings.heartbeat_seconds:
        yield problem(
            "settings",
            f"a lease of {settings.lease_seconds:g} s is lost by one late heartbeat, which come "
            f"every {settings.heartbeat_seconds:g} s",
            "set LORAWRIGHT_LEASE_SECONDS to three heartbeats or more",
        )
    if settings.sweep_seconds > settings.lease_seconds:
        yield warning(
            "settings",
            f"sweeps come every {settings.sweep_seconds:g} s, leases last "
            f"{settings.lease_seconds:g} s: lost jobs wait for the sweep",
            "set LORAWRIGHT_SWEEP_SECONDS below LORAWRIGHT_LEASE_SECONDS",
        )
    if settings.orphan_age_seconds < LEAST_ORPHAN_AGE_SECONDS:
        yield warning(
            "settings",
            f"objects of {settings.orphan_age_seconds:g} s without a row are taken for orphans; "
            "a long upload may not have its row by then",
            f"set LORAWRIGHT_ORPHAN_AGE_SECONDS to {LEAST_ORPHAN_AGE_SECONDS:g} or more",
        )


def _addresses(settings: Settings) -> Iterator[Finding]:
    told = settings.s3_public_endpoint_url or settings.s3_endpoint_url
    if told is not None and urlsplit(told).hostname in LOOPBACKS:
        yield warning(
            "settings",
            f"clients are sent to {told} for pictures and files, which only this machine reaches",
            "on a server for others set LORAWRIGHT_S3_PUBLIC_ENDPOINT_URL",
        )


def _secrets(settings: Settings) -> Iterator[Finding]:
    if settings.session_secret is None:
        yield warning(
            "settings",
            "LORAWRIGHT_SESSION_SECRET is not set: each API process signs with one of its own",
            "set the same for all: `openssl rand -hex 32`",
        )
    if (settings.s3_access_key_id is None) != (settings.s3_secret_access_key is None):
        yield problem(
            "settings",
            "only one of LORAWRIGHT_S3_ACCESS_KEY_ID and LORAWRIGHT_S3_SECRET_ACCESS_KEY is set",
            "set both, or neither to use boto3's own chain",
        )


def _catalog(settings: Settings) -> Iterator[Finding]:
    try:
        catalog = load_catalog(settings.catalog_path)
    except (OSError, ValueError) as error:
        yield problem(
            "settings",
            f"the catalog {settings.catalog_path} cannot be used: {error}",
            "correct it, or LORAWRIGHT_CATALOG_PATH",
        )
        return
    if catalog.base_model(settings.default_base_model) is None:
        yield _not_offered("LORAWRIGHT_DEFAULT_BASE_MODEL", settings.default_base_model)
    if catalog.captioner(settings.default_captioner) is None:
        yield _not_offered("LORAWRIGHT_DEFAULT_CAPTIONER", settings.default_captioner)
    yield from _stored_base_models(catalog)


def _not_offered(setting: str, told: str) -> Finding:
    return problem(
        "settings", f"{setting} is {told}, which the catalog does not offer", "set one it offers"
    )


def _stored_base_models(catalog: Catalog) -> Iterator[Finding]:
    for entry in catalog.base_models:
        if entry.source_kind != "s3":
            continue
        try:
            size = get_store().size(entry.source)
        except LorawrightError:
            return  # the check of storage tells why
        if size != entry.bytes:
            found = "is missing" if size is None else f"has {size} bytes"
            yield problem(
                "settings",
                f"the base model {entry.id}: {entry.source} {found}; {entry.bytes} bytes are due",
                f"store it again: `lorawright base-model add … --id {entry.id}`",
                entry.source,
            )
