"""An encoded recording, a file or the bytes of one, read at any place."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mrl_jax.core.errors import MrlError, describe_os_error
from mrl_jax.core.files import open_regular


class _Bytes(io.BytesIO):
    """Bytes in which a seek to before their start does nothing, as damaged headers ask for it.

    An exception could not leave libsndfile's callback: its traceback would be printed.
    """

    def seek(self, place: int, whence: int = os.SEEK_SET, /) -> int:
        with contextlib.suppress(ValueError, OverflowError):
            return super().seek(place, whence)
        return self.tell()


class Source:
    """The bytes of a recording; made by `open_source`.

    Attributes:
        size: in bytes.
    """

    def __init__(self, data: bytes | IO[bytes], name: object):
        self._data, self._name = data, name
        self.size = len(data) if isinstance(data, bytes) else os.fstat(data.fileno()).st_size

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`, fewer at the end.

        Raises:
            MrlError: the disk cannot read them.
        """
        if isinstance(self._data, bytes):
            return self._data[start:stop]
        # Files of /proc have a size of 0, and more behind it.
        count = max(min(stop, self.size) - start, 0)
        try:
            return os.pread(self._data.fileno(), count, start) if count else b""
        except OSError as error:
            problem = f"cannot be read: {describe_os_error(error)}"
            raise MrlError(problem, where=self._name, hint="copy it anew") from error

    def for_library(self, start: int = 0) -> io.BytesIO | int:
        """What libsndfile reads: bytes, or the descriptor of a file.

        Not a path, from whose ending it would guess: HTML named .au is noise to it.

        Args:
            start: leave out what stands before; the rest is then held in memory.
        """
        if start or isinstance(self._data, bytes):
            return _Bytes(self.read(start, self.size))
        os.lseek(self._data.fileno(), 0, os.SEEK_SET)
        return self._data.fileno()


@contextlib.contextmanager
def open_source(source: Path | bytes, name: object) -> Iterator[Source]:
    """A recording opened for reading; errors call it `name`.

    Raises:
        MrlError: the path leads to no file that can be read to its end.
    """
    if isinstance(source, bytes):
        yield Source(source, name)
        return
    with open_regular(source, where=name, hint="check the path of the recording") as file:
        yield Source(file, name)
