"""Vectors of neighbours: counts and information as by hand, directions as by a dense SVD."""

import numpy as np
import pytest
import torch
from corpora import made_up

from spacy_albert.pretraining import cooccurrence as module
from spacy_albert.pretraining.cooccurrence import (
    count_neighbours,
    leading_directions,
    mutual_information,
    neighbour_vectors,
)
from spacy_albert.pretraining.corpus import Corpus, write_shard
from spacy_albert.pretraining.sequences import Sequences

V = 60


def of(corpus: Corpus, held_out: int = 0) -> Sequences:
    return Sequences(corpus, np.ones(V, dtype=bool), 32, 0.1, held_out, 0)


@pytest.mark.parametrize("held_out", [0, 7])
def test_counts_are_those_of_a_slow_loop(tmp_path, held_out, monkeypatch):
    monkeypatch.setattr(module, "CONTEXTS", 20)
    sequences = of(made_up(tmp_path, V), held_out)
    expected = np.zeros((V, V), np.int64)
    frequency = np.zeros(V, np.int64)
    for number in range(len(sequences.corpus)):
        shard = sequences.corpus.shard(number)
        for document in sequences.documents(number, held_out=False):
            start, end = shard.documents[document : document + 2]
            pieces = shard.pieces[start:end].tolist()
            for i, piece in enumerate(pieces):
                frequency[piece] += 1
                for neighbour in pieces[max(0, i - module.WINDOW) : i]:
                    expected[piece, neighbour] += 1
                    expected[neighbour, piece] += 1
    contexts = sorted(range(V), key=lambda piece: (-frequency[piece], piece))[:20]
    np.testing.assert_array_equal(count_neighbours(sequences, V), expected[:, contexts])


def test_what_is_held_out_is_not_counted(tmp_path):
    for name, pieces in (("a", [[5, 6]]), ("b", [[5, 7]])):
        write_shard(tmp_path / f"{name}.arrow", [[np.array(p)] for p in pieces] * 2, {})
    corpus = Corpus([tmp_path / "a.arrow", tmp_path / "b.arrow"])
    assert of(corpus, held_out=2).documents(0, held_out=True).tolist() == [1]
    assert count_neighbours(of(corpus), V).sum() == 2 * count_neighbours(of(corpus, 2), V).sum()


def test_information_is_the_logarithm_of_how_much_oftener_than_chance():
    counts = np.array([[8.0, 0.0, 2.0], [1.0, 3.0, 0.0], [0.0, 0.0, 0.0]])
    found = mutual_information(torch.from_numpy(counts))
    smoothed = counts.sum(0) ** 0.75
    for i, j in np.ndindex(3, 3):
        count, in_row = counts[i, j], counts[i].sum()
        expected = 0.0
        if count:
            expected = max(0.0, np.log(count / in_row / (smoothed[j] / smoothed.sum())))
        assert found[i, j].item() == pytest.approx(expected, abs=1e-6)


def test_directions_are_those_of_a_dense_decomposition():
    rng = np.random.default_rng(0)
    clear = rng.normal(size=(50, 6)) @ np.diag([9, 7, 5, 3, 2, 1]) @ rng.normal(size=(6, 40))
    clear[7] = 0
    found = leading_directions(torch.from_numpy(clear.astype(np.float32)), 4).numpy()
    left, sizes, _ = np.linalg.svd(clear, full_matrices=False)
    expected = left[:, :4] * sizes[:4] ** 0.5
    is_there = np.arange(50) != 7
    expected -= expected[is_there].mean(0)
    expected *= 2 / np.linalg.norm(expected, axis=1, keepdims=True)
    expected[7] = 0
    # directions may point either way, which products of rows do not show
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-3)
    np.testing.assert_allclose((found[is_there] ** 2).mean(), 1, rtol=1e-5)


def test_of_few_pieces_directions_are_filled_up():
    found = leading_directions(torch.rand(5, 3), 8)
    assert found.shape == (5, 8)
    assert found[:, :3].any()
    assert not found[:, 3:].any()


def test_vectors_tell_which_pieces_occur_together(tmp_path):
    rng = np.random.default_rng(0)
    groups = np.arange(5, 25), np.arange(25, 45)
    documents = [[rng.choice(groups[number % 2], 30)] for number in range(200)]
    write_shard(tmp_path / "a.arrow", documents, {})
    vectors = neighbour_vectors(of(Corpus([tmp_path / "a.arrow"])), V, 8)
    assert not vectors[:5].any()
    assert not vectors[45:].any()
    one, other = (vectors[group] for group in groups)
    assert (one @ one.T).mean() > 4 > -4 > (one @ other.T).mean()


def test_the_state_of_chance_is_left_alone(tmp_path):
    sequences = of(made_up(tmp_path, V))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = neighbour_vectors(sequences, V, 8)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, neighbour_vectors(sequences, V, 8))
