"""Files below one address, a folder or a bucket alike, by the Delta library's own access to storage.

Belongs here: listing, reading and writing whole files. It takes the same addresses, credentials and variables as the
tables do, so that what can be traded on can also be backed up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler
from pyarrow.fs import FileSelector, FileType

from trading_dagster.resources.storage_errors import explained

CHUNK = 2**22


class ObjectStore:
    """Files below an address.

    Every call raises `TablesUnavailableError` where storage other than a folder does not do what it must.

    Parameters
    ----------
    uri : str
        A folder, or ``s3://``, ``gs://``, ``az://``.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        if "://" not in self.uri:
            Path(self.uri).mkdir(parents=True, exist_ok=True)  # the library opens no folder that is not there
        with _explained(self.uri):
            self._handler = DeltaStorageHandler(self.uri)

    def folders(self) -> list[str]:
        """Names of the folders directly below the address."""
        with _explained(self.uri):
            found = self._handler.get_file_info_selector(FileSelector("", recursive=False))
        return sorted(info.path for info in found if info.type == FileType.Directory)

    def files(self, folder: str) -> list[str]:
        """Paths of all files below a folder, whatever their depth; none where there is no such folder."""
        with _explained(self.uri):
            found = self._handler.get_file_info_selector(FileSelector(folder, recursive=True, allow_not_found=True))
        return sorted(info.path for info in found if info.type == FileType.File)

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        with _explained(self.uri):
            (info,) = self._handler.get_file_info([path])
        return bool(info.type == FileType.File)

    def chunks(self, path: str) -> Iterator[bytes]:
        """Content of a file, piece by piece.

        Raises
        ------
        FileNotFoundError
        """
        with _explained(self.uri):
            stream = self._handler.open_input_file(path)
        try:
            while True:
                with _explained(self.uri):
                    piece = bytes(stream.read(CHUNK))
                if not piece:
                    return
                yield piece
        finally:
            stream.close()

    def read(self, path: str) -> bytes:
        """Content of a file as a whole."""
        return b"".join(self.chunks(path))

    def write(self, path: str, content: Iterable[bytes]) -> None:
        """Write a file, in place of one that may be there."""
        with _explained(self.uri):
            # not by the handler's own stream: since pyarrow 26 it hands over buffers, and the library takes bytes alone
            stream = self._handler._handler.open_output_stream(path, None)
            for piece in content:
                stream.write(piece)
            stream.close()  # type: ignore[attr-defined]  # its type leaves it out

    def remove(self, path: str) -> None:
        """Remove a file."""
        with _explained(self.uri):
            self._handler.delete_file(path)


def is_table(uri: str) -> bool:
    """Whether a Delta table is at an address."""
    with _explained(uri):
        return bool(DeltaTable.is_deltatable(uri))


def open_table(uri: str, version: int | None = None) -> DeltaTable:
    """Open a Delta table, the newest version of it where none is named."""
    with _explained(uri):
        return DeltaTable(uri, version=version)


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Say what storage has against it in one sentence; a folder's errors, and missing files, are clear as they are."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if "://" not in uri:
            raise
        raise explained(uri, error) from None
