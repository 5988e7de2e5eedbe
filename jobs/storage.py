"""Folders on any pyarrow filesystem, and files that appear whole or not at all."""

import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pyarrow import ArrowException
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from .errors import JobError

#: Holds files being written. Readers of Parquet folders skip names that begin with "_".
TEMPORARY = "_tmp"


class Folder(NamedTuple):
    """A folder, which need not exist yet. It pickles, so that workers can be sent one."""

    filesystem: FileSystem
    path: str

    @classmethod
    def at(cls, where: str | Path) -> "Folder":
        """Name a folder by a local path or by a URI that pyarrow knows (s3, gs, hdfs, file).

        where (str | Path): The path or URI.
        RETURNS (Folder): The folder.
        RAISES (JobError): If the URI is of no known kind or cannot be reached.
        """
        if "://" not in str(where):
            return cls(LocalFileSystem(), os.path.realpath(os.path.expanduser(where)))
        try:
            filesystem, path = FileSystem.from_uri(str(where))
        except (ArrowException, OSError) as error:
            raise JobError(f"Cannot open {where}: {error}") from error
        return cls(filesystem, path.rstrip("/"))

    def join(self, name: str) -> str:
        return f"{self.path}/{name}"

    def info(self, name: str = "") -> FileInfo:
        return self.filesystem.get_file_info(self.join(name) if name else self.path)

    def holds(self, name: str) -> bool:
        return self.info(name).type == FileType.File

    def names(self) -> list[str]:
        """The names of the files and folders directly inside, sorted; none if it does not exist."""
        selector = FileSelector(self.path, allow_not_found=True)
        return sorted(info.base_name for info in self.filesystem.get_file_info(selector))

    def open(self, name: str) -> BinaryIO:
        return self.filesystem.open_input_file(self.join(name))

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def write(self, name: str, data: bytes) -> None:
        """Put a small file in place, whole.

        name (str): Its name.
        data (bytes): Its contents.
        """
        temporary = f"{TEMPORARY}/{name}.{uuid.uuid4().hex}"
        self.create(TEMPORARY)
        with self.filesystem.open_output_stream(self.join(temporary)) as file:
            file.write(data)
        self.commit(temporary, name)

    def commit(self, temporary: str, name: str) -> None:
        """Give a finished temporary file its final name, in one step.

        A rename on a disk, a copy and a delete in an object store: either way the final name
        appears at once and with all of the file behind it.

        temporary (str): The name it was written under.
        name (str): The name it gets. A file of that name is replaced.
        """
        if isinstance(self.filesystem, LocalFileSystem):
            # a rename may reach the disk before the data does
            descriptor = os.open(self.join(temporary), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self.filesystem.move(self.join(temporary), self.join(name))

    def create(self, name: str = "") -> None:
        self.filesystem.create_dir(self.join(name) if name else self.path, recursive=True)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; those that are not there are no error.

        names (Iterable[str]): Their names.
        """
        for name in names:
            if self.holds(name):
                self.filesystem.delete_file(self.join(name))

    def clear_temporaries(self) -> None:
        """Delete what interrupted runs were writing."""
        if self.info(TEMPORARY).type == FileType.Directory:
            self.filesystem.delete_dir(self.join(TEMPORARY))
