"""A corpus in sequences: all of it, once an epoch, in an order that only the seed decides."""

from collections import Counter

import numpy as np
import pytest
from corpora import made_up

from spacy_albert.pretraining import sequences as module
from spacy_albert.pretraining.corpus import Corpus, read_counts, read_shard, write_shard
from spacy_albert.pretraining.sequences import Position, Sequences

STARTS = np.random.default_rng(0).random(1000) < 0.6


def of(corpus: Corpus, **settings) -> Sequences:
    return Sequences(
        **{
            "corpus": corpus,
            "starts_word": STARTS,
            "length": 32,
            "short": 0.1,
            "held_out": 0,
            "seed": 0,
            **settings,
        }
    )


def epoch_of(sequences: Sequences, epoch: int) -> list:
    found = []
    while sequences.position.epoch <= epoch:
        found += sequences.take(1)
    return [sequence for sequence in found if sequence.epoch == epoch]


def test_a_shard_comes_back(tmp_path):
    documents = [[np.array([5, 6]), np.array([7])], [np.array([8, 9, 10])]]
    write_shard(tmp_path / "a.arrow", documents, {"documents": 2, "not UTF-8": 1})
    shard = read_shard(tmp_path / "a.arrow")
    assert shard.pieces.tolist() == [5, 6, 7, 8, 9, 10]
    assert shard.documents.tolist() == [0, 3, 6]
    assert shard.sentences.tolist() == [0, 2, 3]
    assert read_counts(tmp_path / "a.arrow") == {"documents": 2, "not UTF-8": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.arrow"]


def test_a_shard_without_documents(tmp_path):
    write_shard(tmp_path / "a.arrow", [], {})
    shard = read_shard(tmp_path / "a.arrow")
    assert (len(shard.pieces), shard.documents.tolist(), len(shard.sentences)) == (0, [0], 0)


@pytest.mark.parametrize("damage", [b"", b"ARROW1\0\0 and something else", None])
def test_a_damaged_shard_says_so(tmp_path, damage):
    path = tmp_path / "a.arrow"
    write_shard(path, [[np.arange(5, 500)]], {})
    path.write_bytes(path.read_bytes()[:300] if damage is None else damage)
    with pytest.raises(ValueError, match=r"a\.arrow is no shard of a corpus, or damaged"):
        read_shard(path)
    assert read_counts(path) is None


@pytest.mark.parametrize("short", [0.0, 0.5])
def test_every_piece_is_read_once_in_an_epoch(corpus, short):
    read: Counter = Counter()
    for sequence in epoch_of(of(corpus, short=short), 0):
        assert 0 < sequence.end - sequence.start <= 29
        read.update((sequence.shard, place) for place in range(sequence.start, sequence.end))
    wanted = {
        (number, place) for number in range(3) for place in range(len(corpus.shard(number).pieces))
    }
    assert read == Counter(wanted)


def test_sequences_stay_in_documents_and_borders_are_those_of_sentences(corpus):
    swapped = Counter()
    for sequence in of(corpus).take(5000):
        shard = corpus.shard(sequence.shard)
        documents = np.searchsorted(
            shard.documents, [sequence.start, sequence.end - 1], side="right"
        )
        assert documents[0] == documents[1]
        borders = np.append(shard.sentences, len(shard.pieces))
        inside = borders[(borders > sequence.start) & (borders < sequence.end)]
        if sequence.border < 0:
            assert len(inside) == 0
            assert not sequence.is_swapped
        else:  # whole sentences, or what is cut would tell the order
            assert sequence.border in inside
            assert {sequence.start, sequence.end} <= set(borders)
            swapped[sequence.is_swapped] += 1
    total = sum(swapped.values())
    assert swapped[True] / total == pytest.approx(0.5, abs=4 * (0.25 / total) ** 0.5)


def test_sentences_that_do_not_fit_are_cut_between_words(tmp_path):
    sizes = [70, 3, 4, 70]
    write_shard(tmp_path / "a.arrow", [[np.full(size, 5) for size in sizes]], {})
    starts = np.zeros(1000, bool)
    starts[5] = True
    (sequences,) = (epoch_of(of(Corpus([tmp_path / "a.arrow"]), starts_word=starts), 0),)
    parts = sorted((s.start, s.end, s.border) for s in sequences)
    assert parts[:3] == [(0, 29, -1), (29, 58, -1), (58, 70, -1)]
    assert parts[-3:] == [(77, 106, -1), (106, 135, -1), (135, 147, -1)]
    assert parts[3:-3] in ([(70, 77, 73)], [(70, 73, -1), (73, 77, -1)])
    words = of(Corpus([tmp_path / "a.arrow"]), starts_word=np.zeros(1000, bool))
    assert {s.end - s.start for s in epoch_of(words, 0)} >= {29, 12}  # a word without an end


def test_short_ones_are_as_many_as_asked_for(tmp_path):
    pieces = [np.full(1, 5)] * 3000
    write_shard(tmp_path / "a.arrow", [pieces] * 2000, {})
    corpus = Corpus([tmp_path / "a.arrow"])
    rooms = {}
    for sequence in epoch_of(of(corpus, starts_word=np.ones(1000, bool)), 0):
        document = sequence.start // 3000
        rooms[document] = max(rooms.get(document, 0), sequence.end - sequence.start)
    share = sum(room < 29 for room in rooms.values()) / 2000
    # one in 28 short ones is as long as the others
    assert share == pytest.approx(0.1 * 27 / 28, abs=4 * (0.09 / 2000) ** 0.5)


def test_no_epoch_is_like_another_and_each_can_be_had_again(corpus):
    def runs(epoch: int, seed: int = 0) -> list:
        return [s[1:] for s in epoch_of(of(corpus, seed=seed, position=Position(epoch)), epoch)]

    assert runs(0) == runs(0)
    assert runs(0) != runs(1)
    assert set(runs(0)) != set(runs(1))
    assert runs(0) != runs(0, seed=1)


def test_going_on_gives_what_would_have_come(corpus, monkeypatch):
    monkeypatch.setattr(module, "POOL", 200)  # so that an epoch has several
    whole = of(corpus).take(3000)
    assert whole[-1].epoch >= 2
    first = of(corpus)
    begun = first.take(1234)
    position = Position(**vars(first.position))
    assert begun + of(corpus, position=position).take(3000 - 1234) == whole
    by_one = of(corpus)
    assert [by_one.take(1)[0] for _ in range(500)] == whole[:500]


def test_what_is_held_out_is_not_trained_on(corpus):
    sequences = of(corpus, held_out=5)
    held_out = sequences.held_out_sequences(10_000)
    assert held_out == of(corpus, held_out=5, seed=0).held_out_sequences(10_000)
    assert sequences.held_out_sequences(3) == held_out[:3]

    def documents(found) -> set:
        return {
            (s.shard, int(np.searchsorted(corpus.shard(s.shard).documents, s.start, "right")))
            for s in found
        }

    assert documents(held_out).isdisjoint(documents(epoch_of(sequences, 0)))
    assert len(documents(held_out)) == 3 * 40 / 5
    assert of(corpus).held_out_sequences(10) == []


def test_a_corpus_of_which_all_is_held_out(tmp_path):
    corpus = made_up(tmp_path, 1000, shards=1, documents=3)
    with pytest.raises(ValueError, match="no document to train on that is not held out"):
        of(corpus, held_out=1).take(1)
