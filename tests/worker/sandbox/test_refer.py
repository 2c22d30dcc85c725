"""Files at a location are read by a process that has the keys of the store, and no other variables of the service."""

from pathlib import Path

import pytest

from snf_models.datasets import DatasetStore
from snf_worker.sandbox.uploads import refer
from snf_worker.settings import Settings
from tests.support.referenced import digits, put
from tests.support.s3 import S3Server


@pytest.mark.usefixtures("new_sandboxes")
def test_images_in_a_bucket_are_referred_to(s3: S3Server, settings: Settings, tmp_path: Path) -> None:
    bucket = s3.bucket("read-by-a-process")
    put(bucket, "tar", digits(30))
    store = DatasetStore(tmp_path / "datasets")
    refer(store, "lots", bucket, settings, lambda _done, _total: None)
    record = store.reference("lots")
    assert record is not None
    assert (record.images, record.rejected) == (30, 0)
    assert store.names() == ["lots"]
