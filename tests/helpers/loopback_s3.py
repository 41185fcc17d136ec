"""An S3 server on loopback (moto's), with a bucket, and the surroundings that lead to it."""

import contextlib
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

BUCKET = "bucket"
_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


@dataclass(frozen=True)
class LoopbackS3:
    """A server, and a client of it that knows nothing of the library."""

    endpoint: str
    client: Any

    def put(self, key: str, data: str | bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=data)

    def put_folder(self, key: str, folder: Path) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{key}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def names(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [one["Key"] for page in pages for one in page.get("Contents", ())]

    def read(self, key: str) -> bytes:
        return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def remove(self, key: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=key)

    def allow(self, actions: float) -> None:
        """So many requests are answered without asking who sends them."""
        url, data = f"{self.endpoint}/moto-api/reset-auth", str(actions).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "text/plain"}, method="POST")
        urllib.request.urlopen(request).close()


@contextlib.contextmanager
def loopback_s3(cache: Path) -> Iterator[LoopbackS3]:
    """The server; the library's cache of addresses is in `cache`."""
    import boto3
    import s3fs

    command = [sys.executable, "-W", "ignore", "-c", _SERVER]
    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        assert server.stdout is not None
        port = next(int(line) for line in server.stdout if line.strip().isdigit())
        endpoint = f"http://127.0.0.1:{port}"
        values = {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(cache / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(cache / "none"),
            "MRL_JAX_CACHE": str(cache),
        }
        for name, value in values.items():
            patch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            client = boto3.client("s3")
            client.create_bucket(Bucket=BUCKET)
            yield LoopbackS3(endpoint, client)
            client.close()
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            server.communicate()
