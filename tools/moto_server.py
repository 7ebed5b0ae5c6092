"""moto's server, with one answer mended: a part of an upload that is gone is 404, as S3 has it.

moto 5.2.5 looks the upload up in a dictionary and answers 500 where it is missing.
"""

import sys

from moto.s3.exceptions import NoSuchUpload
from moto.s3.models import FakeKey, S3Backend
from moto.server import main

_upload_part = S3Backend.upload_part


def _upload_part_of_one_that_is_there(
    self: S3Backend, bucket_name: str, multipart_id: str, part_id: int, value: bytes
) -> FakeKey:
    if multipart_id not in self.get_bucket(bucket_name).multiparts:
        raise NoSuchUpload(upload_id=multipart_id)
    return _upload_part(self, bucket_name, multipart_id, part_id, value)


if __name__ == "__main__":
    S3Backend.upload_part = _upload_part_of_one_that_is_there
    main(sys.argv[1:])
