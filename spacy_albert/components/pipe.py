from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import srsly
import torch
from spacy import util
from spacy.language import Language
from spacy.pipeline.trainable_pipe import TrainablePipe
from spacy.tokens import Doc, Span
from spacy.training import Example, validate_get_examples
from thinc.api import Model

from ..layers import AlbertListener, encoder_of
from ..shims import EncoderShim, HeadShim, TorchShim

#: Tokens of documents to look ahead, at most: batches of like lengths can be made of that many.
LOOK_AHEAD = 1 << 18

Item = TypeVar("Item")

for owner, extension in ((Doc, "n_windows"), (Span, "score")):
    if not owner.has_extension(extension):
        owner.set_extension(extension, default=None)


class AlbertPipe(TrainablePipe):
    """What the encoder and its heads have in common: a document fails alone, weights lie in files
    of their own.
    """

    model: Model
    cfg: dict[str, Any]

    def __call__(self, doc: Doc) -> Doc:
        """Annotate one document. One that fails goes to the error handler, and comes back as it is.

        doc (Doc): The document.
        RETURNS (Doc): The same.

        DOCS: https://spacy.io/api/pipe#call
        """
        return next(self.pipe([doc]), doc)

    def pipe(self, stream: Iterable[Doc], *, batch_size: int = 128) -> Iterator[Doc]:
        """Annotate a stream of documents. A document that fails goes to the error handler and
        leaves the stream; those beside it in the batch are annotated.

        stream (Iterable[Doc]): The documents.
        batch_size (int): The number of documents to look ahead.
        YIELDS (Doc): The documents, in order.

        DOCS: https://spacy.io/api/pipe#pipe
        """
        batches = look_ahead(stream, batch_size, LOOK_AHEAD)
        begun = ((docs, self._begin(docs)) for docs in batches)
        for docs, finish in held_back(begun, 1 if self.runs_ahead else 0):
            for doc, answer in self._answer_each(docs, finish):
                try:
                    self.set_annotations([doc], [answer])
                except Exception as error:
                    self.get_error_handler()(self.name, self, [doc], error)
                else:
                    yield doc

    #: Whether `start` returns while a device is still computing.
    runs_ahead = False

    def start(self, docs: list[Doc]) -> Callable[[], Sequence[Any]]:
        """Begin to predict.

        docs (list[Doc]): The documents.
        RETURNS (Callable): Gives what `predict` gives, as soon as it is there.
        """
        answers = self.predict(docs)
        return lambda: answers

    def _begin(self, docs: list[Doc]) -> Callable[[], Sequence[Any]]:
        try:
            return self.start(docs)
        except Exception:
            return lambda: self.predict(docs)  # fails there once more, for `_answer_each` to see

    def _answer_each(
        self, docs: list[Doc], finish: Callable[[], Sequence[Any]]
    ) -> Iterator[tuple[Doc, Any]]:
        """Predict a batch at once, or, when that fails, halve it until the culprit is alone."""
        try:
            answers = finish()
        except Exception as error:
            if len(docs) == 1:
                self.get_error_handler()(self.name, self, docs, error)
                return
            middle = len(docs) // 2
            for half in (docs[:middle], docs[middle:]):
                yield from self._answer_each(half, partial(self.predict, half))
        else:
            yield from zip(docs, answers)

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        """Save to a directory: settings, and weights as safetensors. The folder `encoder` is a
        Hugging Face checkpoint by itself.

        path (str / Path): Path to a directory.
        exclude (Iterable[str]): Names of fields to leave out.

        DOCS: https://spacy.io/api/pipe#to_disk
        """
        writers: dict[str, Callable] = {"cfg": lambda p: srsly.write_json(p, self.cfg)}
        writers |= {shim.folder: shim.to_disk for shim in shims(self.model)}
        util.to_disk(path, writers, exclude)

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "AlbertPipe":
        """Load from a directory.

        path (str / Path): Path to a directory.
        exclude (Iterable[str]): Names of fields to leave out.
        RETURNS (AlbertPipe): Itself.

        DOCS: https://spacy.io/api/pipe#from_disk
        """
        readers: dict[str, Callable] = {"cfg": lambda p: self.cfg.update(srsly.read_json(p))}
        readers |= {shim.folder: shim.from_disk for shim in shims(self.model)}
        util.from_disk(path, readers, exclude)
        self._loaded()
        return self

    def from_bytes(self, bytes_data: bytes, *, exclude: Iterable[str] = ()) -> "AlbertPipe":
        """Load from a bytestring.

        bytes_data (bytes): From `to_bytes`.
        exclude (Iterable[str]): Names of fields to leave out.
        RETURNS (AlbertPipe): Itself.

        DOCS: https://spacy.io/api/pipe#from_bytes
        """
        super().from_bytes(bytes_data, exclude=exclude)
        self._loaded()
        return self

    def _loaded(self) -> None:
        """Do what new settings or weights call for."""

    def start_encoder(
        self, nlp: Language | None, encoder: Callable[[EncoderShim], Any] | None
    ) -> Model:
        """See to it that the encoder which the component reads with has weights.

        nlp (Language | None): The pipeline, whose config says where a shared encoder starts from.
        encoder (Callable | None): Where an encoder of the component's own starts from.
        RETURNS (Model): The encoder, or the listener to it.
        RAISES (ValueError): If the component listens, and has none of its own.
        """
        tok2vec = self.model.layers[0]
        if encoder is not None:
            if isinstance(tok2vec, AlbertListener):
                raise ValueError(
                    f"Component {self.name!r} listens to a shared encoder and has none of its own "
                    "to initialize. Move `encoder` to the [initialize] block of that component."
                )
            encoder(encoder_of(tok2vec))
        if isinstance(tok2vec, AlbertListener) and nlp is not None:
            tok2vec.connected().require_weights(nlp)
        return tok2vec


class AlbertHead(AlbertPipe):
    """A head: classes with names, on an encoder that it shares or owns."""

    #: The kind of head that a component's model must have, as in HeadShim, and where it comes from.
    kind: str
    architecture: str
    #: Whether scores are probabilities, which `calibrate` can make mean what they say.
    can_be_calibrated = True

    def __init__(
        self,
        vocab: Any,
        model: Model,
        name: str,
        *,
        threshold: float,
        temperature: float = 1.0,
        scorer: Callable | None,
    ) -> None:
        """Make a head without classes.

        vocab (Vocab): The shared vocabulary.
        model (Model): From `head_layer`.
        name (str): The name of the component.
        threshold (float): What a score must reach to count.
        temperature (float): What logits, or log odds, are divided by before they become scores;
            `calibrate` learns it.
        scorer (Callable | None): The scoring method.
        RAISES (ValueError): If the model is not for this component, or the temperature none.
        """
        self.vocab = vocab
        self.model = model
        if model.name != "albert-head" or self.head.kind != self.kind:
            raise ValueError(f"Component {name!r} needs a {self.architecture} as its model.")
        if not temperature > 0:
            raise ValueError(
                f"Component {name!r} divides by its temperature, so that must be a number "
                f"above 0, not {temperature}. 1.0 changes nothing."
            )
        self.name = name
        self.cfg = {"labels": [], "threshold": threshold, "temperature": temperature}
        self.scorer = scorer

    @property
    def head(self) -> HeadShim:
        """RETURNS (HeadShim): The weights of the head."""
        return self.model.shims[0]  # type: ignore[return-value]

    @property
    def labels(self) -> tuple[str, ...]:
        """RETURNS (tuple[str, ...]): The labels of the component."""
        return tuple(self.cfg["labels"])

    @property
    def label_data(self) -> list[str]:
        """RETURNS (list[str]): What `spacy init labels` writes and `initialize` reads."""
        return list(self.cfg["labels"])

    @property
    def n_classes(self) -> int:
        """RETURNS (int): Outputs of the head."""
        return len(self.labels)

    def add_label(self, label: str) -> int:
        """Add a label. A head that has weights grows; its other classes stay as they are.

        label (str): The label.
        RETURNS (int): 0 if it was there already, else 1.

        DOCS: https://spacy.io/api/pipe#add_label
        """
        if not isinstance(label, str) or not label:
            raise ValueError(f"A label of {self.name!r} must be a string, not {label!r}.")
        if label in self.labels:
            return 0
        self.cfg["labels"].append(label)
        self._loaded()
        self.head.grow(self.n_classes)
        return 1

    def _loaded(self) -> None:
        for label in self.cfg["labels"]:
            self.vocab.strings.add(label, allow_transient=False)

    def labels_of(self, example: Example) -> Iterable[str]:
        """List the labels in one example's annotation.

        example (Example): A training example.
        RETURNS (Iterable[str]): Labels, repeated or not.
        """
        raise NotImplementedError

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: list[str] | None = None,
        encoder: Callable[[EncoderShim], Any] | None = None,
    ) -> None:
        """Learn the labels and make fresh weights.

        get_examples (Callable): Returns training examples.
        nlp (Language): The pipeline.
        labels (list[str]): The labels; without them, those of the examples.
        encoder (Callable): Where an encoder of the component's own starts from, for instance
            spacy-albert.Checkpoint.v1. A component that listens has no use for it.

        DOCS: https://spacy.io/api/pipe#initialize
        """
        validate_get_examples(get_examples, f"{type(self).__name__}.initialize")
        tok2vec = self.start_encoder(nlp, encoder)
        if labels is None:
            labels = sorted({label for eg in get_examples() for label in self.labels_of(eg)})
        for label in labels:
            self.add_label(label)
        self._require_labels()
        self.make_weights(tok2vec)

    def make_weights(self, tok2vec: Model) -> None:
        """Make the head's weights for its labels.

        tok2vec (Model): The encoder, or the listener to it.
        """
        reader = encoder_of(tok2vec).reader
        self.head.make(reader.model.config.hidden_size, self.n_classes).to(reader.engine.device)

    def answers(self, docs: Iterable[Doc]) -> list[torch.Tensor]:
        """Let the model answer.

        docs (Iterable[Doc]): The documents.
        RETURNS (list[Tensor]): Logits, one tensor a document.
        """
        self._require_labels()
        return self.model.predict(list(docs))


def shims(model: Model) -> list[TorchShim]:
    """List the shims of a component's model.

    model (Model): The model of a component.
    RETURNS (list[TorchShim]): Its shims; of a listener there are none.
    """
    return [shim for node in model.walk() for shim in node.shims if isinstance(shim, TorchShim)]


def look_ahead(stream: Iterable[Doc], n_docs: int, n_tokens: int) -> Iterator[list[Doc]]:
    """Divide a stream into batches, so that neither many documents nor long ones are too much.

    stream (Iterable[Doc]): The documents.
    n_docs (int): The most documents in a batch.
    n_tokens (int): Where a batch ends that has as many tokens, or more.
    YIELDS (list[Doc]): Documents, in order.
    """
    batch: list[Doc] = []
    size = 0
    for doc in stream:
        batch.append(doc)
        size += len(doc)
        if len(batch) >= n_docs or size >= n_tokens:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def held_back(items: Iterable[Item], n_items: int) -> Iterator[Item]:
    """Hold items back until others after them have been made.

    items (Iterable): The items.
    n_items (int): How many of them to hold.
    YIELDS (Any): The items, in order.
    """
    held: deque[Item] = deque()
    for item in items:
        held.append(item)
        if len(held) > n_items:
            yield held.popleft()
    yield from held
