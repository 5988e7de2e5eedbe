"""The sentence-order head as a component, against `transformers` and our own pre-training."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import spacy
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from spacy.language import Language
from spacy.tokens import Doc
from typer.testing import CliRunner
from util import equal, examples, initialized, train, weights

from spacy_albert.architectures import albert_listener, sentence_order, text_classifier
from spacy_albert.borders import cut_borders
from spacy_albert.checkpoints import save_checkpoint
from spacy_albert.cli import albert_cli
from spacy_albert.components.coherence import AlbertCoherence
from spacy_albert.convert import from_checkpoint
from spacy_albert.modeling import AlbertConfig
from spacy_albert.pretraining.checkpoints import heads_of
from spacy_albert.pretraining.objectives import PreTraining
from spacy_albert.tokenization import Pieces
from spacy_albert_jobs import Annotator
from spacy_albert_jobs.documents import DocMaker
from spacy_albert_jobs.outputs import BORDER

CONFIG = {
    "vocab_size": 1000,
    "embedding_size": 16,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 100,
    "initializer_range": 0.3,  # so that segments and orders make a difference
}
SENTENCES = [
    "Michael was in London.",
    "The bank of Paris was very good!",
    "They said that the book was not new; the 9,000 of them cannot.",
    "Why?",
]
TEXT = " ".join(SENTENCES)
LONG = "the river and the city and " * 18 + "the end."
TEXTS = [
    TEXT,
    "",
    "Why?",
    " \n ",
    f"{LONG} {LONG}",
    f"Why? {LONG}",
    f"{LONG} Why?",
    f"{TEXT} {TEXT} {TEXT}",
]


@pytest.fixture(scope="module")
def checkpoint(tiny_spm: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random AlbertForPreTraining of transformers."""
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    model = transformers.AlbertForPreTraining(transformers.AlbertConfig(**CONFIG))
    model.sop_classifier.classifier.weight.data *= 3
    model.save_pretrained(folder)
    (folder / "spiece.model").write_bytes(tiny_spm)
    return folder


@pytest.fixture(scope="module")
def saved(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    from_checkpoint(checkpoint, task="coherence").to_disk(folder)
    return folder


def load(saved: Path) -> Language:
    return spacy.load(saved, config={"components.albert.model.precision": "float32"})


@pytest.fixture(scope="module")
def nlp(saved: Path) -> Language:
    return load(saved)


def scores(doc: Doc) -> list[float | None]:
    return [border["score"] for border in doc._.coherence]


def close(values: object) -> object:
    return pytest.approx(values, abs=1e-5)


def theirs(checkpoint: Path, nlp: Language, pairs: list[tuple[str, str]], most: int = 97):
    """The logits of transformers; of long pairs, of the pieces nearest to the border."""
    model = transformers.AlbertForPreTraining.from_pretrained(checkpoint).eval()
    tokenizer = nlp.get_pipe("albert").model.shims[0].reader.tokenizer
    logits = []
    for pair in pairs:
        a, b = (tokenizer([text]).ids.tolist() for text in pair)
        while len(a) + len(b) > most:
            if len(a) > most // 2:
                a = a[1:]
            else:
                b = b[:-1]
        ids = [tokenizer.cls_id, *a, tokenizer.sep_id, *b, tokenizer.sep_id]
        segments = [0] * (len(a) + 2) + [1] * (len(b) + 1)
        with torch.inference_mode():
            out = model(torch.tensor([ids]), token_type_ids=torch.tensor([segments]))
        logits.append(out.sop_logits[0])
    return torch.stack(logits)


def test_logits_are_those_of_transformers(checkpoint, nlp):
    component = nlp.get_pipe("albert_coherence")
    texts = [TEXT, *TEXTS[4:7]]
    docs = [nlp.get_pipe("sentencizer")(nlp.make_doc(text)) for text in texts]
    pairs = [
        list(pairwise(sentences))
        for sentences in ([sentence.text for sentence in doc.sents] for doc in docs)
    ]
    assert [len(of_doc) for of_doc in pairs] == [3, 1, 1, 1]
    expected = [theirs(checkpoint, nlp, of_doc) for of_doc in pairs]
    for (logits, _), of_doc in zip(component.predict(docs), expected, strict=True):
        assert logits.numpy() == close(of_doc.numpy())
    doc = nlp(TEXT)
    assert scores(doc) == close(expected[0].softmax(1)[:, 0].tolist())
    assert doc._.coherence_score == close(np.mean(scores(doc)))
    assert [border["start"] for border in doc._.coherence] == [TEXT.index(s) for s in SENTENCES[1:]]
    assert [border["shown"] for border in doc._.coherence] == [1.0] * 3
    # the order matters, and so do the segments
    assert scores(nlp(f"{SENTENCES[1]} {SENTENCES[0]}")) != close(scores(doc)[:1])


def test_what_pretrain_writes_is_read(tiny_spm, tmp_path, checkpoint):
    torch.manual_seed(1)
    model = PreTraining(AlbertConfig.from_dict(CONFIG)).eval()
    save_checkpoint(tmp_path, model.albert.config, model.albert.state_dict(), heads_of(model))
    (tmp_path / "spiece.model").write_bytes(tiny_spm)
    nlp = from_checkpoint(tmp_path, task="coherence")
    head = nlp.get_pipe("albert_coherence").head.module
    states = torch.randn(5, 32)
    with torch.no_grad():
        expected = model.sop_classifier(torch.tanh(model.albert.pooler(states)))
        assert torch.equal(head(states), expected)
        # and as transformers has it
        theirs = transformers.AlbertForPreTraining.from_pretrained(tmp_path).eval()
        pooled = torch.tanh(theirs.albert.pooler(states))
        assert head(states).numpy() == close(theirs.sop_classifier(pooled).numpy())


def test_company_does_not_matter(nlp):
    alone = [nlp(text) for text in TEXTS]
    assert [len(doc._.coherence) for doc in alone] == [3, 0, 0, 0, 1, 1, 1, 11]
    assert [doc._.coherence_score is None for doc in alone[:5]] == [False, True, True, True, False]
    for size in (1, 3, 1000):
        for doc, expected in zip(nlp.pipe(TEXTS, batch_size=size), alone, strict=True):
            assert scores(doc) == close(scores(expected))
    for doc, expected in zip(nlp.pipe(TEXTS, n_process=2, batch_size=3), alone):
        assert scores(doc) == close(scores(expected))


def test_long_sentences_say_how_much_of_them_was_shown(nlp):
    tokenizer = nlp.get_pipe("albert").model.shims[0].reader.tokenizer
    for text in TEXTS[4:7]:
        n_pieces = sum(len(tokenizer([s.text]).ids) for s in nlp(text).sents)
        (border,) = nlp(text)._.coherence
        assert border["shown"] == pytest.approx(97 / n_pieces)
        assert border["shown"] < 0.9


def test_a_sentence_that_albert_does_not_see_has_no_score(nlp):
    doc = nlp.make_doc(f"{SENTENCES[0]} \u200b {SENTENCES[1]}")
    place = next(token.i for token in doc if token.text == "\u200b")
    for token in doc:
        token.is_sent_start = token.i in (0, place, place + 1)
    with nlp.select_pipes(disable="sentencizer"):
        doc = nlp(doc)
    assert scores(doc) == [None, None]
    assert [border["shown"] for border in doc._.coherence] == [None, None]
    assert doc._.coherence_score is None


def test_sentences_may_be_found_after_the_encoder(saved, nlp):
    late = load(saved)
    late.remove_pipe("sentencizer")
    with pytest.raises(ValueError, match=r"it has none\. Put what finds them before"):
        late(TEXT)
    assert "albert_coherence" in late.analyze_pipes()["problems"]
    late.add_pipe("sentencizer", before="albert_coherence")
    assert late.analyze_pipes()["problems"]["albert_coherence"] == []
    assert scores(late(TEXT)) == close(scores(nlp(TEXT)))
    # what other components say of windows is of the whole text
    late.add_pipe("albert_vectors", after="albert")
    assert late(TEXTS[7])._.n_windows == 2


def test_pipelines_and_documents_travel(saved, nlp, tmp_path):
    expected = nlp(TEXT)
    again = Doc(nlp.vocab).from_bytes(expected.to_bytes())
    assert (scores(again), again._.coherence_score) == (
        scores(expected),
        expected._.coherence_score,
    )
    copy = spacy.blank("en").from_config(nlp.config).from_bytes(nlp.to_bytes())
    assert scores(copy(TEXT)) == close(scores(expected))
    alone = load(saved)
    alone.replace_listeners("albert", "albert_coherence", ["model.tok2vec"])
    alone.remove_pipe("albert")
    alone.to_disk(tmp_path)
    assert scores(spacy.load(tmp_path)(TEXT)) == close(scores(expected))


def test_a_config_can_say_where_the_head_is(checkpoint, nlp):
    mine = spacy.blank("en")
    mine.add_pipe("sentencizer")
    mine.add_pipe("albert", config={"model": {"precision": "float32"}})
    mine.add_pipe("albert_coherence")
    start = {"@misc": "spacy-albert.Checkpoint.v1", "path": str(checkpoint)}
    settings = mine.config["initialize"]["components"]
    settings["albert"] = {"encoder": start}
    with pytest.raises(ValueError, match="--task coherence"):
        mine.initialize()
    settings["albert_coherence"] = {"head": start}
    mine.initialize()
    assert scores(mine(TEXT)) == close(scores(nlp(TEXT)))


def test_heads_that_cannot_be_used(checkpoint, saved, tiny_spm, tmp_path):
    encoder = saved / "albert" / "encoder"
    with pytest.raises(ValueError, match="has no sentence-order head"):
        from_checkpoint(encoder, task="coherence")
    wide = transformers.AlbertForPreTraining(
        transformers.AlbertConfig(**{**CONFIG, "hidden_size": 48})
    )
    wide.save_pretrained(tmp_path / "wide")
    nlp = load(saved)
    head = nlp.get_pipe("albert_coherence").head.load(tmp_path / "wide")
    with pytest.raises(ValueError, match="for an encoder of width 48, and this one has 32"):
        head.refuse_width(32)
    with pytest.raises(ValueError, match=r"needs a spacy-albert\.SentenceOrder\.v1"):
        AlbertCoherence(nlp.vocab, text_classifier(albert_listener()))
    empty = AlbertCoherence(nlp.vocab, sentence_order(albert_listener()))
    with pytest.raises(ValueError, match="no sentence-order head"):
        empty.initialize(list)


def test_a_head_that_is_not_trained_has_no_dropout(checkpoint):
    nlp = spacy.blank("en")
    nlp.add_pipe("albert")
    with pytest.raises(ValueError, match=r"dropout of 0\.1 would do nothing: leave it out"):
        nlp.add_pipe("albert_coherence").head.load(checkpoint, 0.1)


def test_training_passes_by(tiny_spm, checkpoint, tmp_path):
    (tmp_path / "spiece.model").write_bytes(tiny_spm)
    nlp = initialized(tmp_path / "spiece.model", ["textcat"])
    nlp.add_pipe("sentencizer", first=True)
    nlp.add_pipe("albert_coherence").head.load(checkpoint)
    before = weights(nlp, "albert_coherence")
    assert set(train(nlp, examples(nlp, ["textcat"]), 1)) == {"albert", "textcat"}
    assert equal(weights(nlp, "albert_coherence"), before)


def test_command(checkpoint, tmp_path):
    arguments = ["convert", str(checkpoint), str(tmp_path / "out"), "--task", "coherence"]
    result = CliRunner().invoke(albert_cli, arguments)
    assert result.exit_code == 0, result.output
    assert spacy.load(tmp_path / "out").pipe_names == ["sentencizer", "albert", "albert_coherence"]
    # what is asked for by nobody stays as it was
    assert from_checkpoint(checkpoint).pipe_names == ["albert"]


@given(
    st.lists(st.lists(st.integers(0, 40), max_size=5), max_size=4),
    st.integers(5, 40),
)
def test_windows_show_what_is_nearest_to_the_border(docs, window):
    counts = np.array([count for doc in docs for count in doc], dtype=np.int64)
    edges = np.append(0, np.cumsum(counts))
    pieces = Pieces(np.arange(edges[-1], dtype=np.int32), edges[:0], edges[:0], counts)
    reading, per_doc, shown = cut_borders(pieces, list(map(len, docs)), window)
    assert per_doc.tolist() == [max(len(doc) - 1, 0) for doc in docs]
    assert (reading.lengths <= window).all()
    border, first = 0, 0
    for doc in docs:
        for i in range(1, len(doc)):
            a, b = doc[i - 1], doc[i]
            left = reading.firsts.stops[border] - reading.firsts.starts[border]
            right = reading.window_stops[border] - reading.window_starts[border]
            assert reading.firsts.stops[border] == edges[first + i]
            assert reading.window_starts[border] == edges[first + i]
            if a + b <= window - 3:
                assert (left, right) == (a, b)
            else:
                assert left + right == window - 3
                half = (window - 3) // 2
                assert left >= min(a, half)
                assert right >= min(b, half)
            assert np.isnan(shown[border]) == (a == 0 or b == 0)
            if a and b:
                assert shown[border] == pytest.approx((left + right) / (a + b))
            border += 1
        first += len(doc)
    assert border == len(shown)


def test_a_job_writes_a_column_and_reads_it_back(saved, nlp):
    annotator = Annotator(saved)
    table = annotator(pa.table({"text": [*TEXTS, None]}))
    assert table.schema.field("coherence").type == pa.list_(BORDER)
    rows = table["coherence"].to_pylist()
    assert rows[-1] is None
    assert table["error"].is_null().to_pylist() == [True] * len(TEXTS) + [False]
    maker = DocMaker(nlp.tokenizer, None)
    for text, row, n_tokens in zip(TEXTS, rows, table["n_tokens"].to_pylist()):
        expected = annotator.nlp(text)
        doc = maker.annotated(text, {"coherence": row, "n_tokens": n_tokens})
        assert scores(doc) == close(scores(expected))
        assert [b["start"] for b in row] == [b["start"] for b in expected._.coherence]
        assert doc._.coherence_score == close(expected._.coherence_score)
