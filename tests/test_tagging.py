"""Decoding against every valid tagging, written down from the definitions of the schemes."""

import itertools
import tracemalloc
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacy_albert.tagging import MISSING, Entities, Tagset, settle

SCHEMES = {
    "BIO": ["O", "B-X", "I-X", "B-Y", "I-Y"],
    "BILOU": ["O", "B-X", "I-X", "L-X", "U-X", "B-Y", "I-Y", "L-Y", "U-Y"],
    "BIOES": ["S-X", "B-X", "I-X", "E-X", "O"],
    "IO": ["I-X", "O", "I-Y"],
    "plain IO": ["O", "X", "Y", "Z"],
    "underscore": ["O", "B_X", "I_X", "B_Y-Z", "I_Y-Z"],
    "no I-Y": ["O", "B-X", "I-X", "B-Y"],
    "no L-Y": ["O", "B-X", "I-X", "L-X", "U-X", "B-Y", "I-Y"],
    "no L-Y but U-Y": ["O", "B-X", "L-X", "B-Y", "I-Y", "U-Y"],
    "no U-Y": ["O", "U-X", "B-Y", "I-Y", "L-Y"],
}
every_scheme = pytest.mark.parametrize("tags", SCHEMES.values(), ids=SCHEMES)
Entity = tuple[int, int, str]


@cache
def read_by_definition(tagging: tuple[str, ...], tags: tuple[str, ...]) -> frozenset | None:
    """The entities that a sequence of tags spells, None if the scheme has no such sequence."""
    marked = [tag for tag in tags if tag != "O"]
    if all(tag[1:2] not in ("-", "_") for tag in marked):
        roles, labels = ["O" if t == "O" else "I" for t in tagging], list(tagging)
    else:
        roles = [{"E": "L", "S": "U"}.get(tag[0], tag[0]) for tag in tagging]
        labels = [tag[2:] for tag in tagging]
    is_io = not any(tag[0] in "BLEUS" for tag in marked if tag[1:2] in ("-", "_"))
    units = list(zip(roles, labels))
    entities: list[Entity] = []
    i = 0
    while i < len(tagging):
        (role, label), end = units[i], i + 1
        if role in "IL" and not (is_io and role == "I"):
            return None  # nothing to continue
        if role in "BI":
            while units[end : end + 1] == [("I", label)]:
                end += 1
        if role == "B":
            if units[end : end + 1] == [("L", label)]:
                end += 1
            elif has_tag(tags, "LE", label):
                return None  # B and I wait for their L
            elif has_tag(tags, "US", label) and end == i + 1:
                return None  # alone it is U
        if role != "O":
            entities.append((i, end, label))
        i = end
    return frozenset(entities)


def has_tag(tags: tuple[str, ...], roles: str, label: str) -> bool:
    return any(tag != "O" and tag[0] in roles and tag[2:] == label for tag in tags)


@cache
def valid_taggings(tags: tuple[str, ...], n_tokens: int) -> list[tuple[np.ndarray, frozenset]]:
    numbers = {tag: i for i, tag in enumerate(tags)}
    found = []
    for tagging in itertools.product(tags, repeat=n_tokens):
        entities = read_by_definition(tagging, tags)
        if entities is not None:
            found.append((np.array([numbers[tag] for tag in tagging], dtype=int), entities))
    return found


def slow_decode(tags: list[str], logits: np.ndarray, blocked: np.ndarray) -> dict[Entity, float]:
    """Entities of the best valid tagging, each with its share in the probability of all."""
    logits = logits.astype(np.float64)
    logits = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    outside = tags.index("O")
    weighted = [
        (np.exp(logits[~blocked][np.arange((~blocked).sum()), tagging[~blocked]].sum()), entities)
        for tagging, entities in valid_taggings(tuple(tags), len(logits))
        if (tagging[blocked] == outside).all()
    ]
    total = sum(weight for weight, _ in weighted)
    _, best = max(weighted, key=lambda pair: pair[0])
    return {
        entity: sum(weight for weight, entities in weighted if entity in entities) / total
        for entity in best
    }


def in_words(tagset: Tagset, found: Entities) -> dict[Entity, float]:
    spans = zip(found.starts.tolist(), found.ends.tolist(), found.labels.tolist())
    entities = [(start, end, tagset.labels[label]) for start, end, label in spans]
    assert entities == sorted(set(entities))
    return dict(zip(entities, found.scores.tolist(), strict=True))


def decode(
    tagset: Tagset, docs: Sequence[np.ndarray], blocked: Sequence[np.ndarray] | None = None
) -> list[Entities]:
    """Decode documents at once, and give each its own, counted from its first token."""
    lengths = np.array([len(doc) for doc in docs])
    found = tagset.decode(
        np.concatenate(docs), lengths, None if blocked is None else np.concatenate(blocked)
    )
    results = []
    for edge, end in pairwise(np.append(0, np.cumsum(lengths))):
        starts, ends, *rest = (
            column[(edge <= found.starts) & (found.ends <= end)] for column in found
        )
        results.append(Entities(starts - edge, ends - edge, *rest))
    n_found = sum(len(entities.starts) for entities in results)
    assert n_found == len(found.starts)  # none reaches into the next document
    return results


def random_logits(rng: np.random.Generator, n_tags: int, n_tokens: int) -> np.ndarray:
    return rng.normal(size=(n_tokens, n_tags)) * rng.choice([0.3, 2.0, 8.0])


# The best tagging


@every_scheme
def test_decoding_equals_every_valid_tagging(tags):
    rng = np.random.default_rng(0)
    tagset = Tagset(tags)
    longest = 4 if len(tags) > 7 else 5
    docs = [random_logits(rng, len(tags), rng.integers(0, longest + 1)) for _ in range(120)]
    blocked = [rng.random(len(doc)) < rng.choice([0, 0.3]) for doc in docs]
    n_found = 0
    for doc, taken, found in zip(docs, blocked, decode(tagset, docs, blocked), strict=True):
        expected = slow_decode(tags, doc, taken)
        assert in_words(tagset, found) == pytest.approx(expected, abs=1e-9)
        n_found += len(expected)
    assert n_found > 50


@every_scheme
def test_rows_are_cut_anywhere(tags, monkeypatch):
    """Two tokens tell the next row too little."""
    monkeypatch.setattr("spacy_albert.tagging.ROW", 2)
    rng = np.random.default_rng(7)
    tagset = Tagset(tags)
    n_found = 0
    for _ in range(60):
        doc = random_logits(rng, len(tags), 4 if len(tags) > 7 else 5)
        blocked = rng.random(len(doc)) < 0.1
        (found,) = decode(tagset, [doc], [blocked])
        expected = slow_decode(tags, doc, blocked)
        assert in_words(tagset, found) == pytest.approx(expected, abs=1e-9)
        n_found += len(expected)
    assert n_found > 50


ANY_TAGS = [f"{role}-{label}" for label in "XY" for role in "BILU"]


@given(st.sets(st.sampled_from(ANY_TAGS), min_size=1), st.integers(0, 2**32 - 1))
def test_a_scheme_may_lack_any_tag(some, seed):
    tags = ["O", *sorted(some)]
    tagset = Tagset(tags)
    rng = np.random.default_rng(seed)
    docs = [random_logits(rng, len(tags), n) for n in (1, 2, 3)]
    blocked = [rng.random(len(doc)) < 0.1 for doc in docs]
    for doc, taken, found in zip(docs, blocked, decode(tagset, docs, blocked), strict=True):
        expected = slow_decode(tags, doc, taken)
        assert in_words(tagset, found) == pytest.approx(expected, abs=1e-9)


def test_the_definitions_say_what_they_should():
    bilou, bio, io = (SCHEMES[name] for name in ("BILOU", "BIO", "IO"))

    def read(tagging: str, tags: list[str]):
        entities = read_by_definition(tuple(tagging.split()), tuple(tags))
        return entities if entities is None else sorted(entities)

    assert read("B-X I-X L-X U-X O", bilou) == [(0, 3, "X"), (3, 4, "X")]
    assert read("B-X O", bilou) is read("B-X", bilou) is read("B-X L-Y", bilou) is None
    assert read("L-X", bilou) is read("O I-X L-X", bilou) is read("U-X L-X", bilou) is None
    assert read("B-X B-X I-X B-Y", bio) == [(0, 1, "X"), (1, 3, "X"), (3, 4, "Y")]
    assert read("O I-X", bio) is read("B-Y I-X", bio) is None
    assert read("I-X I-X I-Y O I-X", io) == [(0, 2, "X"), (2, 3, "Y"), (4, 5, "X")]


@every_scheme
def test_a_document_does_not_feel_its_batch(tags, monkeypatch):
    rng = np.random.default_rng(1)
    tagset = Tagset(tags)
    docs = [random_logits(rng, len(tags), n) for n in rng.integers(0, 60, size=50)]
    blocked = [rng.random(len(doc)) < 0.1 for doc in docs]
    for doc, taken, together in zip(docs, blocked, decode(tagset, docs, blocked), strict=True):
        (alone,) = decode(tagset, [doc], [taken])
        assert in_words(tagset, alone) == pytest.approx(in_words(tagset, together), abs=1e-12)
    free = decode(tagset, docs)
    for found, same in zip(free, decode(tagset, docs, [taken & False for taken in blocked])):
        assert in_words(tagset, found) == in_words(tagset, same)
    monkeypatch.setattr("spacy_albert.tagging.BATCH", 100 * len(tags))
    for found, same in zip(free, decode(tagset, docs)):
        assert in_words(tagset, found) == pytest.approx(in_words(tagset, same), abs=1e-12)


@every_scheme
def test_blocked_tokens_are_in_no_entity(tags):
    rng = np.random.default_rng(2)
    doc = random_logits(rng, len(tags), 200)
    doc[:, tags.index("O")] -= 10
    blocked = rng.random(200) < 0.3
    (found,) = decode(Tagset(tags), [doc], [blocked])
    assert len(found.starts) > 10
    assert not any(blocked[start:end].any() for start, end in zip(found.starts, found.ends))
    (none,) = decode(Tagset(tags), [doc], [np.ones(200, dtype=bool)])
    assert len(none.starts) == 0


def test_scores_of_rival_readings_share_what_there_is():
    """One token, even odds between U-X, U-Y and O: B, I and L cannot be, and count for nothing."""
    (found,) = decode(Tagset(SCHEMES["BILOU"]), [np.zeros((1, 9)) + np.eye(9)[[4]] * 1e-6])
    assert found.scores == pytest.approx([1 / 3], abs=1e-5)


@every_scheme
@pytest.mark.parametrize("size", [1e4, 3e38])
def test_logits_of_any_size_give_valid_entities_with_finite_scores(tags, size):
    rng = np.random.default_rng(3)
    docs = [
        rng.choice(np.array([-size, size], dtype=np.float32), size=(n, len(tags)))
        for n in (1, 2, 3, 50, 500)
        for _ in range(20)
    ]
    tagset = Tagset(tags)
    with np.errstate(all="raise", under="ignore"):
        results = decode(tagset, docs, [np.arange(len(doc)) % 7 == 3 for doc in docs])
    for found in results:
        assert np.isfinite(found.scores).all()
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        assert (found.starts < found.ends).all()
        assert (found.ends[:-1] <= found.starts[1:]).all()


@every_scheme
def test_equal_logits_score_as_counting_does(tags):
    doc = np.zeros((4, len(tags)), dtype=np.float32)
    (found,) = decode(Tagset(tags), [doc])
    taggings = [entities for _, entities in valid_taggings(tuple(tags), 4)]
    for entity, score in in_words(Tagset(tags), found).items():
        share = sum(entity in entities for entities in taggings) / len(taggings)
        assert score == pytest.approx(share)


def test_contradictions_are_resolved_however_certain_they_are():
    """I-X I-X O, all but certain: what fits the scheme at the price of one token is B-X I-X O."""
    tagset = Tagset(SCHEMES["BIO"])
    doc = np.where(np.eye(5)[[2, 2, 0]], 1e4, -1e4)
    (found,) = decode(tagset, [doc])
    assert in_words(tagset, found) == {(0, 2, "X"): pytest.approx(1)}


def test_a_label_that_cannot_begin_changes_nothing():
    """Not even one that all tokens call for."""
    doc = np.random.default_rng(8).normal(size=(500, 4))
    doc[:, 3] += 50
    with np.errstate(all="raise", under="ignore"):
        (found,) = decode(Tagset(["O", "B-X", "I-X", "I-Y"]), [doc])
    (same,) = decode(Tagset(["O", "B-X", "I-X"]), [doc[:, :3]])
    expected = in_words(Tagset(["O", "B-X"]), same)
    assert len(expected) > 50
    assert in_words(Tagset(["O", "B-X"]), found) == pytest.approx(expected, abs=1e-9)


def test_half_precision_decodes_as_what_it_stands_for():
    rng = np.random.default_rng(4)
    tagset = Tagset(SCHEMES["BILOU"])
    doc = (rng.normal(size=(100, 9)) * 4).astype(np.float16)
    (found,) = decode(tagset, [doc])
    (same,) = decode(tagset, [doc.astype(np.float64)])
    assert in_words(tagset, found) == in_words(tagset, same)


def test_a_document_of_100_000_tokens(monkeypatch):
    n_steps = 0

    def counted(run, *args):
        def count(rows, n_last):
            nonlocal n_steps
            n_steps += n_last
            run(rows, n_last)

        settle(count, *args)

    monkeypatch.setattr("spacy_albert.tagging.settle", counted)
    rng = np.random.default_rng(5)
    tagset = Tagset(SCHEMES["BILOU"])
    doc = rng.normal(size=(100_000, 9)).astype(np.float32) * 3
    (found,) = decode(tagset, [doc])
    assert 100 < n_steps < 2000
    assert found.ends[-1] > 99_900
    assert np.isfinite(found.scores).all()
    # Far from its ends, a part says what the whole says
    (part,) = decode(tagset, [doc[50_000:51_000]])
    whole, part = in_words(tagset, found), in_words(tagset, part)
    for (start, end, label), score in part.items():
        if 100 < start < 900:
            assert whole[start + 50_000, end + 50_000, label] == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize("label", ["X", "Y"])
def test_what_the_first_token_says_reaches_the_last(label):
    """An entity of 1,000 tokens of which only the first tells the label."""
    tagset = Tagset(SCHEMES["BILOU"])
    tag = {name: i for i, name in enumerate(tagset.tags)}
    doc = np.full((1001, 9), -50.0)
    doc[0, [tag["B-X"], tag["B-Y"]]] = 0
    doc[0, tag[f"B-{label}"]] = 1
    doc[1:999, [tag["I-X"], tag["I-Y"]]] = 0
    doc[999, [tag["L-X"], tag["L-Y"]]] = 0
    doc[1000, tag["O"]] = 0
    (found,) = decode(tagset, [doc])
    share = np.e / (np.e + 1)
    assert in_words(tagset, found) == {(0, 1000, label): pytest.approx(share, abs=1e-9)}


def test_many_tags_do_not_take_the_memory_with_them():
    """The weights of these tags alone are 96 MB."""
    tagset = Tagset.from_labels([f"L{i}" for i in range(100)])
    logits = np.random.default_rng(6).normal(size=(30_000, 401))
    tracemalloc.start()
    found = tagset.decode(logits, np.full(1000, 30))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.starts) > 1000
    assert peak < 50e6


def test_nothing_to_decode():
    tagset = Tagset(SCHEMES["BIO"])
    for lengths in ([], [0], [0, 0]):
        found = tagset.decode(np.empty((0, 5)), np.array(lengths, dtype=int))
        assert [len(column) for column in found] == [0, 0, 0, 0]


def test_empty_documents_among_others():
    tagset = Tagset(SCHEMES["BIO"])
    doc = np.eye(5)[[1, 2, 0]] * 20
    empty = doc[:0]
    results = decode(tagset, [empty, empty, doc, empty, doc, empty])
    assert [found.starts.tolist() for found in results] == [[], [], [0], [], [0], []]
    assert [found.ends.tolist() for found in results] == [[], [], [2], [], [2], []]


# Gold tags

COMPLETE = {
    name: SCHEMES[name] for name in ("BIO", "BILOU", "BIOES", "IO", "plain IO", "underscore")
}


@st.composite
def annotations(draw):
    """spaCy's tags of a text with entities, and the numbers of the tokens that have pieces."""
    gold: list[tuple[str, int]] = draw(
        st.lists(st.tuples(st.sampled_from(["O", "X", "Y"]), st.integers(1, 4)), max_size=12)
    )
    tags: list[str] = []
    for label, length in gold:
        if label == "O":
            tags += ["O"] * length
        elif length == 1:
            tags.append(f"U-{label}")
        else:
            tags += [f"B-{label}", *[f"I-{label}"] * (length - 2), f"L-{label}"]
    readable = draw(st.lists(st.booleans(), min_size=len(tags), max_size=len(tags)))
    return tags, np.flatnonzero(readable)


def entities_of(tags: list[str]) -> list[Entity]:
    starts = [i for i, tag in enumerate(tags) if tag[0] in "BU"]
    ends = [i + 1 for i, tag in enumerate(tags) if tag[0] in "LU"]
    return [(start, end, tags[start][2:]) for start, end in zip(starts, ends, strict=True)]


@pytest.mark.parametrize("name", COMPLETE)
@given(annotation=annotations())
def test_gold_entities_come_back(name, annotation):
    tags, readable = annotation
    if name == "BIOES":
        tags = [tag.replace("Y", "X") for tag in tags]
    if name == "underscore":
        tags = [tag.replace("Y", "Y-Z") for tag in tags]
    tagset = Tagset(COMPLETE[name])
    numbers = tagset.encode(tags, readable)
    logits = np.eye(len(tagset.tags))[numbers] * 20
    (found,) = decode(tagset, [logits])

    # What can be seen of each entity, counted in readable tokens
    seen = []
    for start, end, label in entities_of(tags):
        places = np.flatnonzero((start <= readable) & (readable < end))
        if len(places):
            seen.append((int(places[0]), int(places[-1]) + 1, label))
    if tagset.scheme == "IO":  # which cannot tell neighbours of one label apart
        seen = join_neighbours(seen)
    assert in_words(tagset, found) == pytest.approx(dict.fromkeys(seen, 1.0), abs=1e-3)


def join_neighbours(entities: list[Entity]) -> list[Entity]:
    joined: list[Entity] = []
    for start, end, label in entities:
        if joined and joined[-1][1] == start and joined[-1][2] == label:
            start = joined.pop()[0]
        joined.append((start, end, label))
    return joined


def test_an_entity_begins_with_the_first_token_that_can_be_read():
    tagset = Tagset(SCHEMES["BILOU"])
    gold = ["O", "B-X", "I-X", "L-X", "O", "B-Y", "L-Y", "U-X"]

    def written(readable: list[int]) -> list[str]:
        return [tagset.tags[i] for i in tagset.encode(gold, np.array(readable, dtype=int))]

    assert written([0, 1, 2, 3, 4, 5, 6, 7]) == gold
    assert written([0, 2, 3, 4, 6]) == ["O", "B-X", "L-X", "O", "U-Y"]
    assert written([1, 3, 5]) == ["B-X", "L-X", "U-Y"]
    assert written([2, 7]) == ["U-X", "U-X"]
    assert written([]) == []


@pytest.mark.parametrize("missing", [None, "-"])
def test_missing_annotation_is_marked(missing):
    tagset = Tagset(SCHEMES["BIO"])
    tags = [missing, "U-X", "O", missing, "B-Y", "L-Y"]
    assert tagset.encode(tags, np.arange(6)).tolist() == [MISSING, 1, 0, MISSING, 3, 4]
    assert tagset.encode([missing] * 2, np.arange(2)).tolist() == [MISSING] * 2


def test_what_a_tagset_cannot_write_is_missing():
    assert Tagset(SCHEMES["no U-Y"]).encode(["U-Y"], np.arange(1)).tolist() == [MISSING]


def test_unknown_labels_are_named():
    with pytest.raises(ValueError, match="labelled CAT, DOG, and the component knows X, Y"):
        Tagset(SCHEMES["BIO"]).encode(["U-DOG", "U-X", "B-CAT", "L-CAT"], np.arange(4))


# Schemes


@pytest.mark.parametrize(
    ("name", "scheme", "labels"),
    [
        ("BIO", "BIO", ["X", "Y"]),
        ("BILOU", "BILOU", ["X", "Y"]),
        ("BIOES", "BILOU", ["X"]),
        ("IO", "IO", ["X", "Y"]),
        ("plain IO", "IO", ["X", "Y", "Z"]),
        ("underscore", "BIO", ["X", "Y-Z"]),
    ],
)
def test_schemes_are_recognised(name, scheme, labels):
    tagset = Tagset(SCHEMES[name])
    assert (tagset.scheme, tagset.labels) == (scheme, labels)


@pytest.mark.parametrize(
    "tags",
    [
        [],
        ["O"],
        ["B-X", "I-X"],
        ["O", "B-X", "B-X"],
        ["O", "B-X", "Y"],
        ["O", "B-X", "B-"],
        ["O", ""],
        ["O", "B-X", ""],
        ["LABEL_0", "LABEL_1"],
        ["positive", "negative"],
    ],
)
def test_labels_of_no_scheme_are_refused(tags):
    with pytest.raises(ValueError, match="These labels follow no tag scheme for entities"):
        Tagset(tags)


@pytest.mark.parametrize(
    ("tags", "added"),
    [
        (SCHEMES["BIO"], ["B-NEW", "I-NEW"]),
        (SCHEMES["BILOU"], ["B-NEW", "I-NEW", "L-NEW", "U-NEW"]),
        (SCHEMES["IO"], ["I-NEW"]),
        (SCHEMES["plain IO"], ["NEW"]),
        (SCHEMES["underscore"], ["B_NEW", "I_NEW"]),
    ],
)
def test_a_new_label_comes_after_the_present_tags(tags, added):
    assert Tagset(tags).with_label("NEW").tags == tags + added


def test_tags_of_labels():
    assert Tagset.from_labels(["X", "Y"]).tags == SCHEMES["BILOU"]


@pytest.mark.parametrize(
    ("tags", "added"),
    [
        (["O", "B-X", "I-X"], ["B-Y", "I-Y"]),
        (["O", "B-X", "I-X", "E-X", "S-X"], ["B-Y", "I-Y", "E-Y", "S-Y"]),
        (["O", "B_X", "I_X", "L_X", "U_X"], ["B_Y", "I_Y", "L_Y", "U_Y"]),
        (["O", "I-X"], ["I-Y"]),
        (["X", "O"], ["Y"]),
    ],
)
def test_a_new_label_is_spelled_as_the_others(tags, added):
    assert Tagset(tags).with_label("Y").tags == tags + added
