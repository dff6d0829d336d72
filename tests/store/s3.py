"""A real S3 server as a process of its own (moto), and a line to it that can be cut."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress

BUCKET = "bucket"


class S3Server:
    """An S3 server with an empty bucket. Clients reach it through a line that `cut` cuts and `mend` mends.

    Attributes:
        environment: what clients must have in theirs to use it.
        refused: how many connections found the line cut.
    """

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self._port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._whole = True
        self._connections: set[socket.socket] = set()
        self.refused = 0
        self.environment = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._listener.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",  # s3fs tries several times by itself
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        threading.Thread(target=self._accept, daemon=True).start()
        self._await()

    def _await(self) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/{BUCKET}", method="PUT")
        until = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(request, timeout=10).close()
                return
            except urllib.error.URLError:
                assert self._process.poll() is None and time.monotonic() < until, (
                    "the S3 server did not start"
                )
                time.sleep(0.05)

    def cut(self) -> None:
        """No connection to the server works from now on."""
        self._whole = False
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Connections work again."""
        self._whole = True

    def close(self) -> None:
        """End the server."""
        self.cut()
        self._listener.close()
        self._process.kill()
        self._process.wait()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._whole:
                self.refused += 1
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._port))
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket) -> None:
        self._connections.add(source)
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        self._connections.discard(source)
        if target not in self._connections:  # the other direction has ended too
            source.close()
            target.close()
