"""A store that fails now and then: files on a disk behind errors."""

import os
import random
import threading
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

inside = threading.local()


class Flaky(LocalFileSystem):
    """Local files of which one operation in so many fails, half done or not done at all."""

    protocol = "flaky"
    one_in = 12

    def maybe_fail(self, what: str) -> None:
        if not getattr(inside, "a_listing", False) and random.randrange(self.one_in) == 0:
            raise OSError(f"injected: {what}")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(str(path).removeprefix("flaky://"))

    def info(self, path: str, **kwargs: Any) -> dict:
        self.maybe_fail("info")
        return super().info(path, **kwargs)

    def ls(self, path: str, detail: bool = False, **kwargs: Any) -> Any:
        self.maybe_fail("list")
        inside.a_listing = True  # which is one request
        try:
            return super().ls(path, detail=detail, **kwargs)
        finally:
            inside.a_listing = False

    def rm_file(self, path: str) -> None:
        self.maybe_fail("delete")
        super().rm_file(path)

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        self.maybe_fail("open")
        if "w" in mode:
            os.makedirs(os.path.dirname(self._strip_protocol(path)), exist_ok=True)
        file = super()._open(path, mode, **kwargs)
        if "w" in mode and random.randrange(self.one_in) == 0:
            write = file.write
            left = [random.randrange(1, 20_000)]

            def broken(data: Any) -> int:
                left[0] -= len(data)
                if left[0] < 0:
                    write(bytes(data)[: left[0]])
                    raise OSError("injected: the connection broke")
                return write(data)

            file.write = broken
        return file


def register() -> None:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
