"""Folders on any filesystem, and files that appear whole or not at all."""

import contextlib
import errno
import os
import random
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar
from urllib.parse import quote

import pyarrow as pa
from pyarrow import ArrowException
from pyarrow.fs import (
    FileInfo,
    FileSelector,
    FileSystem,
    FileType,
    FSSpecHandler,
    LocalFileSystem,
    PyFileSystem,
)

from .errors import JobError

Result = TypeVar("Result")

#: Holds files being written. Readers of Parquet folders skip names that begin with "_".
TEMPORARY = "_tmp"
#: Object stores, as pyarrow and fsspec name them: a rename is a copy there, but a file appears at
#: once, when all of it has been sent. Elsewhere a file grows where all can see it.
STORES = {"s3", "gcs", "gs", "abfs", "oss", "oci"}
#: How often a store is asked, and how long it is left alone after the first time; then twice that.
TRIES, PAUSE_SECONDS = 6, 0.25
#: How much of a file that is sent is in memory.
CHUNK = 32 << 20
#: What does not go away by asking again: as the system says it, and as pyarrow quotes it, each with
#: the way out.
LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT)
REFUSALS = {
    r"ACCESS_DENIED|PERMISSION|AUTHENT|ACCESS_KEY|SIGNATURE|TOKEN|HTTP status 40[13]": (
        "Give credentials that may do this. For s3 they are AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, a profile in ~/.aws, or the role of the machine, on all machines."
    ),
    r"NO_SUCH_BUCKET": "Make the bucket, or name one that is there.",
}
WAYS_OUT = {
    **REFUSALS,
    r"Errno (1|13|30)\]": "Let this user do so, or name another folder.",
    r"Errno (17|20)\]": "A file is in the way: name another folder.",
    r"Errno (28|122)\]": "Make room, or name another folder.",
    r"NETWORK_CONNECTION|TIMEOUT|curlCode": "Is the address right, and is the network up?",
    r"libjvm|libhdfs": "HDFS needs Java and Hadoop: set JAVA_HOME, HADOOP_HOME and CLASSPATH.",
    r"Protocol not known": "Give a local path, or a URI of s3, gs, abfs or hdfs, or for fsspec.",
    r"[Ii]nstall|[Ii]mport|No module": "Install the package that such URIs need.",
}
#: Characters that mean something in a URI. Others may be written as they are.
RESERVED = "%/:=&?~#+!$,;'@()*[]"


class Folder(NamedTuple):
    """A folder, which need not exist yet. It pickles, so that workers can be sent one."""

    filesystem: FileSystem
    path: str

    @classmethod
    def at(cls, where: str | Path) -> "Folder":
        """Name a folder by a local path or by a URI that pyarrow (s3, gs, abfs, hdfs, file) or
        fsspec knows.

        where (str | Path): The path or URI.
        RETURNS (Folder): The folder.
        RAISES (JobError): If the URI is of no known kind or cannot be reached.
        """
        uri, filesystem, path = str(where), LocalFileSystem(), str(where)
        if "://" in uri:
            try:
                filesystem, path = open_uri(uri)
            except (ArrowException, ImportError, ValueError, OSError) as error:
                raise refusal(f"Cannot open {shown(uri)}", error) from error
        if isinstance(filesystem, LocalFileSystem):
            return cls(filesystem, os.path.realpath(os.path.expanduser(path)))
        return cls(filesystem, path.rstrip("/"))

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, LocalFileSystem)

    @property
    def is_store(self) -> bool:
        return not STORES.isdisjoint(re.findall(r"\w+", self.filesystem.type_name))

    def shares_with(self, other: "Folder") -> bool:
        """Whether a path here may be that of the same file in another folder.

        other (Folder): The other folder.
        RETURNS (bool): Whether both have the same filesystem, be it with other options.
        """
        ours, theirs = self.filesystem, other.filesystem
        return ours == theirs or (self.is_store and ours.type_name == theirs.type_name)

    def join(self, name: str) -> str:
        return f"{self.path}/{name}"

    def info(self, name: str = "") -> FileInfo:
        path = self.join(name) if name else self.path
        return self.patiently(lambda: self.filesystem.get_file_info(path))

    def holds(self, name: str) -> bool:
        return self.info(name).type == FileType.File

    def entries(self, recursive: bool = True) -> list[FileInfo]:
        """List what is in the folder, which may also not exist.

        recursive (bool): Whether to list what is in folders in it, too.
        RETURNS (list[FileInfo]): The files and folders.
        """
        selector = FileSelector(self.path, allow_not_found=True, recursive=recursive)
        return self.patiently(lambda: self.filesystem.get_file_info(selector))

    def files(self) -> dict[str, int]:
        """List all files below, but for those being written.

        RETURNS (dict[str, int]): Their sizes by path, sorted; none if the folder does not exist.
        """
        start = len(self.path) + 1
        found = {i.path[start:]: i.size for i in self.entries() if i.type == FileType.File}
        return {name: found[name] for name in sorted(found) if not name.startswith(f"{TEMPORARY}/")}

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading at any place. A read that fails in a store is tried again.

        name (str): Its name.
        RETURNS (BinaryIO): The file.
        """
        if self.is_local:
            return self.filesystem.open_input_file(self.join(name))
        return pa.PythonFile(PatientFile(self, name), mode="r")

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read()

    def write(self, name: str, data: bytes) -> None:
        """Put a small file in place, whole.

        name (str): Its name.
        data (bytes): Its contents.
        """
        with self.writing(name) as file:
            file.write(data)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Write a file that appears under its name when the block has ended, whole, in one step;
        after an exception it does not appear at all. A file of that name is replaced.

        On a disk, a temporary file beside it gets the name. What is to go elsewhere is first
        written to a temporary file here, and then sent, which can be tried again.

        name (str): Its name.
        YIELDS (BinaryIO): What to write to.
        """
        if self.is_local:
            with self._renaming(name) as temporary:
                with pa.OSFile(temporary, "wb") as file:
                    yield file
                sync(temporary)  # a rename may reach the disk before the data does
            sync(os.path.dirname(self.join(name)))
            return
        with tempfile.TemporaryDirectory(prefix="albert-") as here:
            spool = os.path.join(here, "file")
            with pa.OSFile(spool, "wb") as file:
                yield file
            self.patiently(lambda: self._send(spool, name))

    @contextlib.contextmanager
    def _renaming(self, name: str) -> Iterator[str]:
        """Give the path of a temporary file, which gets its name at the end of the block."""
        temporary, target = self.join(f"{TEMPORARY}/{uuid.uuid4().hex}"), self.join(name)
        self._create(TEMPORARY)
        try:
            yield temporary
            self._create(name.rpartition("/")[0])
            self.filesystem.move(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                self.filesystem.delete_file(temporary)
            raise

    def _send(self, spool: str, name: str) -> None:
        if self.is_store:
            self._copy(spool, self.join(name))
        else:
            with self._renaming(name) as temporary:
                self._copy(spool, temporary)

    def _copy(self, spool: str, path: str) -> None:
        """Copy a file from here.

        A file of pyarrow in a store, when it is closed or only forgotten, becomes an object of what
        was written to it so far, unless the store has refused some of that. So an interrupt may not
        come between opening and closing it: it would put an empty file in the place of a good one.
        Interrupts go to the main thread.
        """

        def copy() -> None:
            with (
                open(spool, "rb") as file,
                self.filesystem.open_output_stream(path, compression=None) as target,
            ):
                while data := file.read(CHUNK):
                    target.write(data)
                    if self.filesystem.type_name == "s3":
                        target.flush()  # pyarrow sends in the background, and holds what waits

        with ThreadPoolExecutor(1) as thread:
            thread.submit(copy).result()

    def _create(self, name: str) -> None:
        if name:
            self.filesystem.create_dir(self.join(name), recursive=True)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; those that are not there are no error.

        names (Iterable[str]): Their names.
        """
        for path in map(self.join, names):
            with contextlib.suppress(FileNotFoundError):
                self.patiently(lambda path=path: self.filesystem.delete_file(path))  # type: ignore[misc]

    def clear_temporaries(self) -> None:
        """Delete what interrupted runs were writing."""
        if self.is_store:  # folders are only names there, and delete_dir of S3 has stood still
            below = FileSelector(self.join(TEMPORARY), allow_not_found=True)
            found = self.patiently(lambda: self.filesystem.get_file_info(below))
            self.delete(f"{TEMPORARY}/{info.base_name}" for info in found)
        elif self.info(TEMPORARY).type == FileType.Directory:
            self.patiently(lambda: self.filesystem.delete_dir(self.join(TEMPORARY)))

    def refuse_unwritable(self) -> None:
        """See to it that files can be written and deleted here, by doing so.

        RAISES (JobError): If they cannot.
        """
        name = f"{TEMPORARY}/{uuid.uuid4().hex}"
        try:
            self.write(name, b"")
            self.delete([name])
        except OSError as error:
            raise refusal(f"Cannot write to {self.path}", error) from error

    def patiently(self, ask: Callable[[], Result]) -> Result:
        """Ask a store again if it fails. A disk is not asked again.

        ask (Callable): What may fail.
        RETURNS (Any): What it returns.
        RAISES (OSError): If it goes on failing, or does so for a reason that lasts.
        """
        for number in range(0 if self.is_local else TRIES - 1):
            try:
                return ask()
            except OSError as error:
                if is_lasting(error):
                    raise
            time.sleep(PAUSE_SECONDS * 2**number * random.uniform(0.5, 1.5))
        return ask()


class PatientFile:
    """A file of a store, of which every read is tried again if it fails. For pa.PythonFile.

    folder (Folder): The folder it is in.
    name (str): Its name.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder = folder
        path = folder.join(name)
        self.file = folder.patiently(lambda: folder.filesystem.open_input_file(path))
        self.seek, self.tell, self.close = self.file.seek, self.file.tell, self.file.close

    @property
    def closed(self) -> bool:
        return self.file.closed

    def read(self, size: int = -1) -> bytes:
        place = self.file.tell()

        def again() -> bytes:
            self.file.seek(place)
            return self.file.read(None if size < 0 else size)

        return self.folder.patiently(again)


def open_uri(uri: str) -> tuple[FileSystem, str]:
    """Open a filesystem: one of pyarrow's if it has one for such URIs, else one of fsspec's.

    uri (str): The URI.
    RETURNS (tuple[FileSystem, str]): The filesystem and the path in it.
    RAISES (ArrowException): If the URI is not as pyarrow wants it.
    RAISES (ImportError): If fsspec, or the package for this kind of URI, is not installed.
    RAISES (ValueError): If fsspec does not know this kind either.
    RAISES (OSError): If the filesystem cannot be reached.
    """
    try:
        return FileSystem.from_uri(quote(uri, safe=RESERVED))
    except ArrowException as error:
        if "Unrecognized filesystem type" not in str(error) and "without" not in str(error):
            raise
    import fsspec

    # what workers write is not in a list that was kept from before
    filesystem, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    return PyFileSystem(Candid(filesystem)), path


class Candid(FSSpecHandler):
    """fsspec for pyarrow, but for the questions that fsspec answers with no when it could not look.
    A store that does not answer is not one without the file.
    """

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        def walk(path: str) -> Iterator[FileInfo]:
            for entry in self.fs.ls(path, detail=True):
                if entry["name"].strip("/") != path.strip("/"):  # some list the folder itself
                    yield self._create_file_info(entry["name"], entry)
                    if selector.recursive and entry["type"] == "directory":
                        yield from walk(entry["name"])

        try:
            return list(walk(selector.base_dir))
        except FileNotFoundError:
            if selector.allow_not_found:
                return []
            raise

    def open_input_file(self, path: str) -> pa.PythonFile:
        return pa.PythonFile(self.fs.open(path, mode="rb"), mode="r")

    open_input_stream = open_input_file

    def delete_file(self, path: str) -> None:
        self.fs.rm_file(path)


def is_lasting(error: OSError) -> bool:
    """Whether a failure does not go away by trying again."""
    if isinstance(error, FileNotFoundError | PermissionError) or error.errno in LASTING:
        return True
    return any(re.search(pattern, str(error)) for pattern in REFUSALS)


def refusal(what: str, error: BaseException) -> JobError:
    """Say that a filesystem does not do what is asked of it, why, and the way out.

    what (str): What it does not do.
    error (BaseException): The reason.
    RETURNS (JobError): The error to raise.
    """
    reason = shown((str(error) or type(error).__name__).splitlines()[0].rstrip("."))
    way_out = next((way for pattern, way in WAYS_OUT.items() if re.search(pattern, reason)), "")
    return JobError(f"{what}: {reason}. {way_out}".rstrip())


def shown(uri: str) -> str:
    """A URI, or a message with one, without the password or the secret key."""
    return re.sub(r"(://[^/@\s:]*):[^/@\s]*@", r"\1:...@", uri)


def sync(path: str) -> None:
    """See to it that a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
