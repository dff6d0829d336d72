"""The control socket between a launcher and a worker: messages, with file descriptors that travel beside them.

A frame is the length of the message (4 bytes, little-endian), the number of descriptors that came with it (1 byte), and
the message (`runtime.message`).
"""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

from ..message import decode, encode

_HEAD = struct.Struct("<IB")
_DESCRIPTORS = 16  # at most, in one reading
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # Linux; elsewhere descriptors are marked one by one


def send(control: socket.socket, message: Any, descriptors: Sequence[int] = ()) -> None:
    """Send a message.

    Raises:
        OSError: the other side is gone, or (BlockingIOError) does not read and the socket is not to be waited for.
    """
    data = encode(message)
    frame = _HEAD.pack(len(data), len(descriptors)) + data
    sent = socket.send_fds(control, [frame], list(descriptors)) if descriptors else control.send(frame)
    if sent == len(frame):
        return
    if not control.getblocking():
        raise BlockingIOError(f"{len(frame) - sent} bytes of a message did not fit")
    control.sendall(frame[sent:])


class Incoming:
    """What has arrived on a control socket."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._data = bytearray()
        self._descriptors: deque[int] = deque()
        self.ended = False  # the other side closed

    def receive(self) -> list[tuple[Any, list[int]]]:
        """Read once; the messages that are complete now, each with its descriptors.

        Raises:
            BlockingIOError: the socket does not wait, and nothing is there.
        """
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, 1 << 16, _DESCRIPTORS, _CLOSE_ON_EXEC)
        except ConnectionError:
            data, descriptors = b"", []
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._descriptors.extend(descriptors)
        self._data += data
        self.ended = not data
        complete = []
        while len(self._data) >= _HEAD.size:
            size, count = _HEAD.unpack_from(self._data)
            end = _HEAD.size + size
            if len(self._data) < end:
                break
            message = decode(bytes(self._data[_HEAD.size : end]))
            del self._data[:end]
            complete.append((message, [self._descriptors.popleft() for _ in range(count)]))
        return complete

    def close(self) -> None:
        """Close the socket, and the descriptors that nobody took."""
        while self._descriptors:
            os.close(self._descriptors.popleft())
        self._control.close()
