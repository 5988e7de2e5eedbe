"""Checksums of the values in columns, the same however the values are stored and divided.

Two tables have the same checksums if they have the same values in the same order, whatever their
row groups, encodings, buffers or slices are. So a file can be checked against what was written to
it, and a column of it against the column that it was copied from.
"""

import hashlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

DIGEST_BYTES = 16


class Checksums:
    """Checksums of the columns of a table that arrives in batches.

    schema (pa.Schema): The columns.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.names = schema.names
        # Each column is several streams of bytes, and where a batch ends shows in none of them
        self.streams: dict[tuple[str, ...], hashlib.blake2b] = {}

    def update(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Take in rows.

        batch (pa.RecordBatch | pa.Table): The rows.
        """
        for name in self.names:
            column = batch.column(name)
            for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                for path, data in streams(chunk, (name,)):
                    if len(data):  # or else it would show that there was an empty batch
                        self.streams.setdefault(path, new_sum()).update(data)

    def digests(self) -> dict[str, str]:
        """Give the checksums.

        RETURNS (dict[str, str]): The checksum of every column, by name.
        """
        sums = {name: new_sum() for name in self.names}
        for path in sorted(self.streams):
            sums[path[0]].update("\0".join(path[1:]).encode() + self.streams[path].digest())
        return {name: digest.hexdigest() for name, digest in sums.items()}


def new_sum() -> "hashlib.blake2b":
    return hashlib.blake2b(digest_size=DIGEST_BYTES)


def streams(array: pa.Array, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], memoryview]]:
    """Take an array apart into bytes that follow from its values alone.

    array (pa.Array): The array.
    path (tuple[str, ...]): Where it is: the column, and what it is in there.
    YIELDS (tuple): The path of a stream, and what comes next in it: which values are null, how
        long they are, and the bytes of those that are not null.
    """
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        yield from streams(array.storage, path)
        return
    if pa.types.is_dictionary(kind):
        yield from streams(array.dictionary_decode(), path)
        return
    yield (*path, "valid"), fixed_bytes(array.is_valid().cast(pa.uint8()))
    if pa.types.is_null(kind):
        return
    if pa.types.is_struct(kind):
        # by number: names may occur twice. What is in a null struct is null
        for number, child in enumerate(array.flatten()):
            yield from streams(child, (*path, str(number)))
        return
    if pa.types.is_map(kind):
        # the same buffers as a list of pairs; to cast it loses values of some nested types
        fields = [kind.key_field, kind.item_field]
        pairs = pa.StructArray.from_arrays([array.keys, array.items], fields=fields)
        kind, bits = pa.list_(pairs.type), array.buffers()[:2]
        array = pa.Array.from_buffers(kind, len(array), bits, -1, array.offset, [pairs])
    if is_list(kind):
        yield (*path, "lengths"), fixed_bytes(pc.list_value_length(array).cast(pa.int64()))
        yield from streams(array.flatten(), (*path, "items"))
    elif is_variable(kind):
        array = array.cast(pa.large_binary()).drop_null()
        yield (*path, "lengths"), fixed_bytes(pc.binary_length(array))
        _, offsets, data = array.buffers()
        if data is not None and len(array):
            ends = memoryview(offsets).cast("q")
            first, last = ends[array.offset], ends[array.offset + len(array)]
            yield (*path, "values"), memoryview(data)[first:last]
    else:
        # truth values a byte each, so that batches may end anywhere
        array = array.cast(pa.uint8()) if pa.types.is_boolean(kind) else array
        yield (*path, "values"), fixed_bytes(array)


def is_list(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (
            pa.types.is_list,
            pa.types.is_large_list,
            pa.types.is_list_view,
            pa.types.is_large_list_view,
            pa.types.is_fixed_size_list,
        )
    )


def is_variable(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_string_view,
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_binary_view,
        )
    )


def fixed_bytes(array: pa.Array) -> memoryview:
    """Values of fixed width, but for nulls, as they lie in memory."""
    array = array.drop_null()
    data = array.buffers()[1]
    if data is None or not len(array):
        return memoryview(b"")
    width = array.type.bit_width // 8
    return memoryview(data)[array.offset * width : (array.offset + len(array)) * width]
