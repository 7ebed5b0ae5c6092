"""ObjectStore: bytes in S3, under keys made of our own ids, never of users' names."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from app.errors import NotFound, StorageUnavailable
from app.settings import Settings, get_settings

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MISSING_CODES = {"404", "NoSuchKey", "NoSuchUpload", "NotFound"}


@contextmanager
def _translated_errors(key: str) -> Iterator[None]:
    """boto3's errors in our words; a missing key is `NotFound`, all else is storage away."""
    try:
        yield
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") in MISSING_CODES:
            raise NotFound(f"No stored object at {key}") from error
        raise StorageUnavailable(f"Object storage refused: {error}") from error
    except (BotoCoreError, Boto3Error) as error:
        # The second kind is how an upload of a file says that the server refused.
        raise StorageUnavailable(f"Object storage cannot be reached: {error}") from error


@dataclass(frozen=True)
class StoredObject:
    """An object's key and when it was stored."""

    key: str
    modified_at: datetime


@dataclass(frozen=True)
class StoredPart:
    """A part of an object that is still arriving; `etag` without its quotes."""

    number: int
    size: int
    etag: str


class ObjectStore:
    """One bucket. Every method raises `StorageUnavailable` when the server is away."""

    def __init__(self, client: "S3Client", public_client: "S3Client", settings: Settings) -> None:
        self._client = client
        self._public_client = public_client
        self._bucket = settings.s3_bucket
        self._presigned_seconds = settings.presigned_url_seconds

    def put_bytes(self, key: str, data: bytes, content_type: str) -> None:
        """Store a small object."""
        with _translated_errors(key):
            self._client.put_object(
                Bucket=self._bucket, Key=key, Body=data, ContentType=content_type
            )

    def put_file(self, key: str, source: Path | BinaryIO, content_type: str) -> None:
        """Store a file of any size, in parts when it is large."""
        extra = {"ContentType": content_type}
        with _translated_errors(key):
            if isinstance(source, Path):
                self._client.upload_file(str(source), self._bucket, key, ExtraArgs=extra)
            else:
                self._client.upload_fileobj(source, self._bucket, key, ExtraArgs=extra)

    def get_bytes(self, key: str) -> bytes:
        """A small object, whole."""
        with _translated_errors(key):
            return self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()

    def get_file(self, key: str, target: Path) -> None:
        """Download to `target`, which appears only when it is whole."""
        partial = target.with_name(target.name + ".part")
        # Not boto3's download_file: it asks small objects too for their first eight megabytes, and
        # nanio refuses a range that ends past the object's end.
        with _translated_errors(key):
            body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"]
            with partial.open("wb") as file:
                for chunk in body.iter_chunks(1024 * 1024):
                    file.write(chunk)
        partial.replace(target)

    def chunks(self, key: str, *, start: int = 0, size: int = 1024 * 1024) -> Iterator[bytes]:
        """An object from byte `start` on, which it must have, in pieces of at most `size` bytes."""
        with _translated_errors(key):
            found = self._client.get_object(Bucket=self._bucket, Key=key, Range=f"bytes={start}-")
            yield from found["Body"].iter_chunks(size)

    def sha256(self, key: str) -> str:
        """SHA-256 of what is stored, read back in full; hex."""
        digest = hashlib.sha256()
        with _translated_errors(key):
            body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"]
            for chunk in body.iter_chunks(1024 * 1024):
                digest.update(chunk)
        return digest.hexdigest()

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return self.size(key) is not None

    def size(self, key: str) -> int | None:
        """The bytes of an object; None if there is none."""
        try:
            with _translated_errors(key):
                return self._client.head_object(Bucket=self._bucket, Key=key)["ContentLength"]
        except NotFound:
            return None

    def begin_parts(self, key: str, content_type: str) -> str:
        """Begin an object that will come in parts; the id that the store gives it."""
        with _translated_errors(key):
            return self._client.create_multipart_upload(
                Bucket=self._bucket, Key=key, ContentType=content_type
            )["UploadId"]

    def presign_part(self, key: str, upload_id: str, number: int) -> str:
        """An address that takes one part, by PUT, for a while."""
        return self._public_client.generate_presigned_url(
            "upload_part",
            Params={
                "Bucket": self._bucket,
                "Key": key,
                "UploadId": upload_id,
                "PartNumber": number,
            },
            ExpiresIn=self._presigned_seconds,
        )

    def parts(self, key: str, upload_id: str) -> list[StoredPart]:
        """The parts that have arrived, by number.

        Raises:
            NotFound: there is no such upload, or it was completed or aborted.
        """
        found: list[StoredPart] = []
        with _translated_errors(key):
            for page in self._client.get_paginator("list_parts").paginate(
                Bucket=self._bucket, Key=key, UploadId=upload_id
            ):
                found += [
                    StoredPart(part["PartNumber"], part["Size"], part["ETag"].strip('"'))
                    for part in page.get("Parts", [])
                ]
        return sorted(found, key=lambda part: part.number)

    def complete_parts(self, key: str, upload_id: str, parts: Iterable[StoredPart]) -> None:
        """Make an object of its parts.

        Raises:
            NotFound: there is no such upload.
            StorageUnavailable: the store refused.
        """
        with _translated_errors(key):
            self._client.complete_multipart_upload(
                Bucket=self._bucket,
                Key=key,
                UploadId=upload_id,
                MultipartUpload={
                    "Parts": [
                        {"PartNumber": part.number, "ETag": f'"{part.etag}"'} for part in parts
                    ]
                },
            )

    def abort_parts(self, key: str, upload_id: str) -> None:
        """Forget an upload and its parts; one that is gone already is no error."""
        try:
            with _translated_errors(key):
                self._client.abort_multipart_upload(
                    Bucket=self._bucket, Key=key, UploadId=upload_id
                )
        except NotFound:
            pass

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; one that is gone already is no error."""
        for key in keys:
            with _translated_errors(key):
                self._client.delete_object(Bucket=self._bucket, Key=key)

    def list_keys(self, prefix: str) -> list[str]:
        """Every key that starts so."""
        keys: list[str] = []
        with _translated_errors(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=prefix
            ):
                keys += [item["Key"] for item in page.get("Contents", [])]
        return keys

    def pages(self, prefix: str) -> Iterator[list[StoredObject]]:
        """Everything whose key starts so, up to a thousand at a time."""
        with _translated_errors(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=prefix
            ):
                yield [
                    StoredObject(item["Key"], item["LastModified"])
                    for item in page.get("Contents", [])
                ]

    def presign_get(self, key: str, filename: str | None = None) -> str:
        """An address anyone can download from for a while; `filename` is what it saves as."""
        params = {"Bucket": self._bucket, "Key": key}
        if filename is not None:
            safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in filename)
            params["ResponseContentDisposition"] = f'attachment; filename="{safe}"'
        return self._public_client.generate_presigned_url(
            "get_object", Params=params, ExpiresIn=self._presigned_seconds
        )

    def check(self) -> None:
        """Raise unless the bucket can be reached."""
        with _translated_errors(self._bucket):
            self._client.head_bucket(Bucket=self._bucket)

    def clock(self) -> datetime:
        """What time it is there, to the second."""
        with _translated_errors(self._bucket):
            answer = self._client.head_bucket(Bucket=self._bucket)
        return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])

    def ensure_bucket(self) -> None:
        """Create the bucket where it is missing."""
        try:
            self.check()
        except NotFound:
            with _translated_errors(self._bucket):
                self._client.create_bucket(Bucket=self._bucket)


def _make_client(settings: Settings, endpoint_url: str | None) -> "S3Client":
    secret = settings.s3_secret_access_key
    return boto3.client(
        "s3",
        endpoint_url=endpoint_url,
        region_name=settings.s3_region,
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=secret.get_secret_value() if secret else None,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"} if endpoint_url else {},
            connect_timeout=3,
            read_timeout=30,
            retries={"max_attempts": 3, "mode": "standard"},
            # Newer checksums are not spoken by every S3-compatible server.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            max_pool_connections=32,
        ),
    )


def make_store(settings: Settings) -> ObjectStore:
    """A store for these settings; boto3 clients are safe to share between threads."""
    endpoint = settings.s3_endpoint_url
    client = _make_client(settings, endpoint)
    public_endpoint = settings.s3_public_endpoint_url
    public = _make_client(settings, public_endpoint) if public_endpoint else client
    return ObjectStore(client, public, settings)


@cache
def get_store() -> ObjectStore:
    """The process's store."""
    return make_store(get_settings())
