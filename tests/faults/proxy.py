"""A link that can be cut, slowed down, or left half open: a TCP proxy on loopback in front of a board's sshd."""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
import time

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds: the other end gets a reset, not an end


class LinkProxy:
    """Listens on ``port``. ``delay_s``: how late each piece arrives, each way."""

    def __init__(self, to_port: int, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self._to_port = to_port
        self._pairs: list[tuple[socket.socket, socket.socket, threading.Event]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection there is, both ends at once; new ones go through."""
        pairs, self._pairs = self._pairs, []
        for here, there, _ in pairs:
            for end in (here, there):
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def freeze(self) -> None:
        """Forward nothing more over the connections there are, and close none: the link is half open."""
        for _, _, frozen in self._pairs:
            frozen.set()

    def close(self) -> None:
        """Stop listening and cut what there is."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                there = socket.create_connection(("127.0.0.1", self._to_port), 5.0)
            except OSError:
                here.close()  # nobody behind: the board is off
                continue
            there.settimeout(None)
            frozen = threading.Event()
            self._pairs.append((here, there, frozen))
            for source, sink in ((here, there), (there, here)):
                self._pump(source, sink, frozen)

    def _pump(self, source: socket.socket, sink: socket.socket, frozen: threading.Event) -> None:
        pieces: queue.Queue[tuple[float, bytes]] = queue.Queue()

        def read() -> None:
            data = b"."
            while data:
                try:
                    data = source.recv(1 << 16)
                except OSError:
                    data = b""
                pieces.put((time.monotonic() + self.delay_s, data))

        def write() -> None:
            while True:
                due_s, data = pieces.get()
                time.sleep(max(0.0, due_s - time.monotonic()))
                if frozen.is_set():
                    continue
                try:
                    if not data:
                        sink.shutdown(socket.SHUT_WR)
                        return
                    sink.sendall(data)
                except OSError:
                    return

        for target in (read, write):
            threading.Thread(target=target, daemon=True).start()
