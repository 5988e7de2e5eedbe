"""Checksums are of values: how they are stored does not matter, and every value does."""

import datetime
import decimal
import math
import struct

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from spacy_albert_jobs.checksums import Checksums

Value = st.SearchStrategy
UTC = datetime.timezone.utc
NOT_A_NUMBER = struct.unpack("<d", b"\x01\x00\x00\x00\x00\x00\xf8\x7f")[0]

#: Types that Parquet keeps as they are, and their values.
PLAIN: list[tuple[pa.DataType, Value]] = [
    (pa.null(), st.none()),
    (pa.bool_(), st.booleans()),
    (pa.int8(), st.integers(-128, 127)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.float16(), st.floats(width=16)),
    (pa.float32(), st.floats(width=32)),
    (pa.float64(), st.floats() | st.sampled_from([0.0, -0.0, math.nan, NOT_A_NUMBER])),
    (pa.decimal128(7, 2), st.decimals(-9999, 9999, places=2)),
    (pa.decimal256(50, 0), st.decimals(-(10**40), 10**40, places=0)),
    (pa.date32(), st.dates()),
    (pa.time64("us"), st.times()),
    (pa.timestamp("ms"), st.datetimes().map(lambda t: t.replace(microsecond=0))),
    (pa.timestamp("us", "UTC"), st.datetimes(timezones=st.just(UTC))),
    (pa.duration("us"), st.timedeltas(max_value=datetime.timedelta(9999))),
    (pa.string(), st.text(max_size=5)),
    (pa.large_string(), st.text(max_size=5)),
    (pa.string_view(), st.text(max_size=20)),
    (pa.binary(), st.binary(max_size=5)),
    (pa.large_binary(), st.binary(max_size=5)),
    (pa.binary_view(), st.binary(max_size=20)),
    (pa.binary(3), st.binary(min_size=3, max_size=3)),
    (pa.dictionary(pa.int32(), pa.string()), st.sampled_from(["", "a", "bc"])),
    (pa.uuid(), st.binary(min_size=16, max_size=16)),
]


def lists(inner: tuple[pa.DataType, Value]) -> Value:
    kind, values = inner
    many = st.lists(st.none() | values, max_size=3)
    return st.sampled_from([pa.list_(kind), pa.large_list(kind)]).map(lambda kind: (kind, many))


def pairs(inner: tuple[pa.DataType, Value]) -> Value:
    kind, values = inner
    two = st.lists(st.none() | values, min_size=2, max_size=2)
    return st.just((pa.list_(kind, 2), two))


def structs(inner: list[tuple[pa.DataType, Value]]) -> Value:
    kind = pa.struct([(name, kind) for name, (kind, _) in zip("abc", inner)])
    values = {name: st.none() | values for name, (_, values) in zip("abc", inner)}
    return st.just((kind, st.fixed_dictionaries(values)))


def maps(inner: tuple[pa.DataType, Value]) -> Value:
    kind, values = inner
    items = st.lists(st.tuples(st.text(max_size=2), st.none() | values), max_size=3)
    return st.just((pa.map_(pa.string(), kind), items))


def nested(leaves: list[tuple[pa.DataType, Value]]) -> Value:
    return st.recursive(
        st.sampled_from(leaves),
        lambda inner: st.one_of(
            inner.flatmap(lists),
            inner.flatmap(pairs),
            st.lists(inner, min_size=1, max_size=3).flatmap(structs),
            inner.flatmap(maps),
        ),
        max_leaves=4,
    )


KINDS = nested(PLAIN)
#: In lists and structs, pyarrow does not write and read back all of these.
ODD = (pa.null(), pa.string_view(), pa.binary_view(), pa.dictionary(pa.int32(), pa.string()))
READABLE = st.sampled_from(PLAIN) | nested([pair for pair in PLAIN if pair[0] not in ODD])


@st.composite
def columns(draw, kinds=KINDS) -> pa.Array:
    kind, values = draw(kinds)
    return array(draw(st.lists(st.none() | values, max_size=8)), kind)


def array(values: list, kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OverflowError):
        # what Python cannot make of this type; hypothesis is to try another
        assume(False)
        raise


def digest(*chunks: pa.Array) -> str:
    """The checksum of a column that comes in so many batches."""
    sums = Checksums(pa.schema([("x", chunks[0].type)]))
    for chunk in chunks:
        sums.update(pa.RecordBatch.from_arrays([chunk], ["x"]))
    return sums.digests()["x"]


def cuts(data: st.DataObject, length: int) -> list[tuple[int, int]]:
    places = sorted(data.draw(st.lists(st.integers(0, length), max_size=4)))
    return list(zip([0, *places], [*places, length]))


@given(columns(), st.data())
def test_batches_and_slices_do_not_matter(column, data):
    whole = digest(column)
    parts = cuts(data, len(column))
    chunks = [column.slice(start, end - start) for start, end in parts]
    assert digest(*chunks) == whole
    assert digest(*[pa.concat_arrays([chunk]) for chunk in chunks]) == whole
    table = pa.table({"x": pa.chunked_array(chunks, column.type)})
    sums = Checksums(table.schema)
    sums.update(table)
    assert sums.digests() == {"x": whole}
    inside = pa.concat_arrays([column, column, column]).slice(len(column), len(column))
    assert digest(inside) == whole


@given(columns(READABLE), st.data())
def test_parquet_keeps_them(column, data):
    sink = pa.BufferOutputStream()
    options = {
        "row_group_size": data.draw(st.integers(1, 9)),
        "data_page_size": data.draw(st.sampled_from([100, None])),
        "use_dictionary": data.draw(st.booleans()),
        "compression": data.draw(st.sampled_from(["none", "zstd"])),
        "data_page_version": data.draw(st.sampled_from(["1.0", "2.0"])),
    }
    pq.write_table(pa.table({"x": column}), sink, **options)
    with pq.ParquetFile(pa.BufferReader(sink.getvalue())) as file:
        batches = list(file.iter_batches(data.draw(st.integers(1, 9))))
        sums = Checksums(file.schema_arrow)
    for batch in batches:
        sums.update(batch)
    assert sums.digests()["x"] == digest(column)


def nest(values: pa.Array, how: str) -> pa.Array:
    if how == "list":
        offsets = pa.array(range(len(values) + 1), pa.int32())
        return pa.ListArray.from_arrays(offsets, values)
    if how == "struct":
        return pa.StructArray.from_arrays([values], ["a"])
    return values


@pytest.mark.parametrize("how", ["flat", "list", "struct"])
@given(values=st.lists(st.none() | st.text(max_size=20), max_size=8))
def test_the_encoding_of_texts_does_not_matter(values, how):
    plain = pa.array(values, pa.string())
    whole = digest(nest(plain, how))
    for kind in (pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()):
        assert digest(nest(plain.cast(kind), how)) == whole, kind
    assert digest(nest(plain.dictionary_encode(), how)) == whole
    other = pa.array([*reversed(values), "more"], pa.string()).dictionary_encode()
    places = [other.dictionary.to_pylist().index(v) if v is not None else None for v in values]
    encoded = pa.DictionaryArray.from_arrays(pa.array(places, pa.int8()), other.dictionary)
    assert digest(nest(encoded, how)) == whole


@given(st.lists(st.none() | st.lists(st.none() | st.integers(0, 9), max_size=3), max_size=8))
def test_the_encoding_of_lists_does_not_matter(values):
    kinds = [pa.list_, pa.large_list, pa.list_view, pa.large_list_view]
    assert len({digest(pa.array(values, kind(pa.int64()))) for kind in kinds}) == 1


def test_what_lies_under_a_null_does_not_matter():
    def hide(values: pa.Array) -> pa.Array:
        valid = pa.py_buffer(b"\x05")  # the second of three is null
        buffers, children = values.buffers(), []
        if pa.types.is_nested(values.type):
            buffers, children = buffers[:2], [values.values]
        return pa.Array.from_buffers(values.type, 3, [valid, *buffers[1:]], children=children)

    for kind, one, other in (
        (pa.int32(), [1, 2, 3], [1, 9, 3]),
        (pa.bool_(), [True, True, True], [True, False, True]),
        (pa.string(), ["a", "b", "c"], ["a", "long", "c"]),
        (pa.list_(pa.int32()), [[1], [2], [3]], [[1], [8, 9], [3]]),
        (pa.map_(pa.int8(), pa.int8()), [[(1, 1)], [], []], [[(1, 1)], [(2, 2)], []]),
    ):
        hidden = [hide(pa.array(values, kind)) for values in (one, other)]
        assert hidden[0].to_pylist() == [one[0], None, one[2]] == hidden[1].to_pylist()
        assert (
            digest(hidden[0]) == digest(hidden[1]) == digest(pa.array(hidden[0].to_pylist(), kind))
        )
    struct_kind = pa.struct([("a", pa.int32())])
    both = [
        pa.StructArray.from_arrays(
            [pa.array(values, pa.int32())], ["a"], mask=pa.array([False, True])
        )
        for values in ([1, 2], [1, None])
    ]
    assert digest(both[0]) == digest(both[1]) == digest(pa.array([{"a": 1}, None], struct_kind))


def same(one, other) -> bool:
    """Whether two Python values are the same to the last bit."""
    if isinstance(one, float) and isinstance(other, float):
        return struct.pack("<d", one) == struct.pack("<d", other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@given(KINDS, st.data())
def test_every_change_matters(kinds, data):
    kind, values = kinds
    before = data.draw(st.lists(st.none() | values, min_size=1, max_size=6))
    place = data.draw(st.integers(0, len(before) - 1))
    value = data.draw(st.none() | values)
    what = data.draw(st.sampled_from(["change", "swap", "drop", "repeat", "insert"]))
    after = list(before)
    if what == "change":
        after[place] = value
    elif what == "swap":
        after[place], after[-1] = after[-1], after[place]
    elif what == "drop":
        del after[place]
    elif what == "repeat":
        after.insert(place, after[place])
    else:
        after.insert(place, value)
    one, other = array(before, kind), array(after, kind)
    equal = same(one.to_pylist(), other.to_pylist())
    assert (digest(one) == digest(other)) == equal


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        (pa.float64(), [0.0], [-0.0]),
        (pa.float64(), [math.nan], [None]),
        (pa.float64(), [math.nan, 1.0], [1.0, math.nan]),
        (pa.list_(pa.int8()), [[]], [None]),
        (pa.list_(pa.int8()), [[None]], [[]]),
        (pa.list_(pa.int8()), [[1], [2]], [[1, 2], []]),
        (pa.list_(pa.int8()), [[1], [], [2]], [[], [1], [2]]),
        (pa.list_(pa.list_(pa.int8())), [[[1], [2]]], [[[1, 2]]]),
        (pa.struct([("a", pa.int8())]), [None], [{"a": None}]),
        (pa.struct([("a", pa.int8()), ("b", pa.int8())]), [{"a": 1}], [{"b": 1}]),
        (pa.list_(pa.int8(), 2), [[1, 2], None], [None, [1, 2]]),
        (pa.list_(pa.int8(), 2), [[None, None]], [None]),
        (pa.map_(pa.int8(), pa.int8()), [[(1, 2)]], [[(2, 1)]]),
        (pa.map_(pa.int8(), pa.int8()), [[(1, 1), (2, 2)]], [[(2, 2), (1, 1)]]),
        (pa.map_(pa.int8(), pa.int8()), [[]], [None]),
        (pa.string(), [""], [None]),
        (pa.string(), ["ab", "c"], ["a", "bc"]),
        (pa.string(), ["a", None], [None, "a"]),
        (pa.bool_(), [True, False], [False, True]),
        (pa.null(), [None], [None, None]),
        (pa.decimal128(5, 2), [decimal.Decimal("1.00")], [decimal.Decimal("0.01")]),
        (pa.timestamp("us"), [0], [1]),
        (pa.binary(), [b"\x00"], [b"\x00\x00"]),
    ],
)
def test_values_that_look_alike(kind, one, other):
    one, other = pa.array(one, kind), pa.array(other, kind)
    assert digest(one) != digest(other)
    assert digest(pa.concat_arrays([one, one])) != digest(pa.concat_arrays([one, other]))


def test_nan_and_zero_through_a_dictionary_of_parquet():
    """Parquet writers look up values before they write them, and must take none for another."""
    values = [0.0, -0.0, math.nan, NOT_A_NUMBER, -math.nan, 0.0, -0.0] * 100
    for kind in (pa.float64(), pa.float32()):
        column = pc.cast(pa.array(values), kind)
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"x": column}), sink, use_dictionary=True)
        (chunk,) = pq.read_table(pa.BufferReader(sink.getvalue()))["x"].chunks
        assert digest(chunk) == digest(column)


def test_columns_of_one_name_in_a_struct():
    kind = pa.struct([("a", pa.int8()), ("a", pa.int8())])

    def pair(*values: int) -> pa.Array:
        return pa.StructArray.from_arrays(
            [pa.array([v], pa.int8()) for v in values], fields=list(kind)
        )

    assert digest(pair(1, 2)) != digest(pair(2, 1))


def test_columns_do_not_mix():
    rows = pa.table({"a": ["x", "y"], "b": ["x", "z"]})
    sums = Checksums(rows.schema)
    sums.update(rows)
    found = sums.digests()
    assert found == {name: digest(rows[name].combine_chunks()) for name in "ab"}
    assert found["a"] != found["b"]
    assert Checksums(rows.schema).digests().keys() == {"a", "b"}
