from pathlib import Path

import pytest
from corpora import made_up

from spacy_albert.pretraining.corpus import Corpus
from spacy_albert.tokenization import SentencePieceTokenizer


@pytest.fixture(scope="session")
def tokenizer(tiny_spm: bytes) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(tiny_spm)


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    folder = tmp_path / "corpus"
    folder.mkdir()
    return made_up(folder, 1000)
