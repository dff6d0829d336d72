"""A store for each module of tests: an S3 server, and the environment in which this process reaches it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from store.s3 import BUCKET, S3Server


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    server = S3Server()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server
    server.close()


@pytest.fixture
def url(s3: S3Server, request: pytest.FixtureRequest) -> str:
    """A place of the test's own on the server."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()  # those of a former server
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    return f"s3://{BUCKET}/{name}"
