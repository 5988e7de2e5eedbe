"""The thinc side: an encoder, a listener to one, and a head on either.

Two ways lead through the same weights. `read` is for annotation: the encoder reads once and the
heads take what they need from each batch. `begin_update` is for training: the encoder's states
become leaves of the heads' graphs, every head leaves its gradient in one of them, and the encoder
goes backward once.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from spacy.tokens import Doc
from thinc.api import Model
from torch import Tensor

from .borders import cut_borders, sentences_of
from .heads import ClsStates, Head, PositionStates, States, TextHead, Vectors
from .reader import Reader, Readout
from .reading import Reading
from .shims import EncoderShim, HeadShim, OrderShim
from .transfer import to_cpu


class Gradient(NamedTuple):
    """The gradient of a head's loss: of the sum, which adds up from batch to batch of a step, and
    of how many terms.
    """

    by_doc: list[Tensor]
    n_terms: int
    of: list[Tensor] | None = None  # what it is the gradient by; None: the logits of each document


class Pass(NamedTuple):
    """One passage of documents through the encoder, with the graph of that."""

    reading: Reading
    roots: dict[str, Tensor]  # states by unit


#: What is kept of the states in training, for heads that take them.
STATES: dict[str, Head] = {
    "pieces": States(),
    "windows": ClsStates(),
    "positions": PositionStates(),
}


class Activations:
    """What the encoder makes of a training batch, and the way back into it.

    It reads when the first head asks: once for all heads that take documents as they are, and once
    for each that takes them together with something else.
    """

    def __init__(self, encoder: EncoderShim, docs: Sequence[Doc], is_train: bool):
        """Cut the graph between encoder and heads.

        encoder (EncoderShim): The encoder.
        docs (Sequence[Doc]): The documents to read.
        is_train (bool): Whether the encoder itself is being trained.
        """
        self.docs = list(docs)
        self.is_train = is_train
        #: Of how many terms of its loss each head's gradient is the sum.
        self.n_terms: Counter[Readout] = Counter()
        self._encoder = encoder
        self._passes: dict[Readout | None, Pass] = {}
        # one leaf a head, as heads differ in terms
        self._leaves: list[tuple[Readout, Tensor, Tensor]] = []

    def apply(self, readout: Head) -> list[Any]:
        """Compute a head's answers, ready to be differentiated.

        readout (Head): The head.
        RETURNS (list): One tensor a document, or what else the head gives.
        """
        reading, roots = self._read(readout)
        root = roots[readout.learns_from]
        leaf = root.detach().requires_grad_()
        self._leaves.append((readout, root, leaf))
        return readout.learn(leaf, reading)

    def _read(self, readout: Head) -> Pass:
        """Read the documents as a head wants them, or find that this was done."""
        key = readout if readout.reads_alone else None
        if key not in self._passes:
            reader = self._encoder.reader
            reading = readout.prepare(reader, self.docs)
            units = [readout.learns_from] if readout.reads_alone else ["pieces", "windows"]
            self._encoder.module.train(self.is_train)
            with torch.set_grad_enabled(self.is_train):
                found = reader.read(reading, [STATES[unit] for unit in units])
            self._passes[key] = Pass(reading, dict(zip(units, found)))
        return self._passes[key]

    def backward(self, is_last: bool) -> None:
        """Send the gradients that heads left here into the encoder.

        A step is along the mean of each head's loss, and of how many terms is known when the last
        batch of the step is there. That one goes backward for all heads at once. Those before it
        go head by head, lest their graphs be kept till then.

        is_last (bool): Whether a step follows.
        """
        ways = [
            (root, leaf.grad, self._encoder.sum_of(head))
            for head, root, leaf in self._leaves
            if leaf.grad is not None and root.requires_grad
        ]
        if not ways:
            return
        for head, n_terms in self.n_terms.items():
            self._encoder.sum_of(head).n_terms += n_terms
        if is_last:
            roots, gradients = zip(*((root, grad / sent.divisor) for root, grad, sent in ways))
            torch.autograd.backward(roots, gradients)
            return
        weights = [p for p in self._encoder.module.parameters() if p.requires_grad]
        for number, (root, grad, sent) in enumerate(ways, start=1):
            found = torch.autograd.grad(
                root, weights, grad, retain_graph=number < len(ways), allow_unused=True
            )
            sent.add({weight: part for weight, part in zip(weights, found) if part is not None})

    def is_of(self, docs: Sequence[Doc]) -> bool:
        """RETURNS (bool): Whether these are the activations of these documents."""
        return len(docs) == len(self.docs) and all(a is b for a, b in zip(docs, self.docs))

    @property
    def is_awaited(self) -> bool:
        """RETURNS (bool): Whether the encoder is in training and no head has been here yet."""
        is_left = any(leaf.grad is not None for _, _, leaf in self._leaves)
        return self.is_train and not is_left and not self.n_terms


class Weightless(NamedTuple):
    """A head that has nothing to learn."""

    module: Readout
    has_weights: bool = True


class Later(NamedTuple):
    """Stands for a head that lets the encoder read for it alone, when its own turn has come."""

    has_weights: bool = False


class Orders(NamedTuple):
    """What a document's borders between sentences are like."""

    logits: Tensor  # (B, 2): in order, swapped
    shown: np.ndarray  # (B,) the share of both sentences that was read; NaN: one is empty


class Answers(WeakKeyDictionary[Doc, Tensor]):
    """What the encoder has read out for a head, for as long as the documents live."""

    def __reduce__(self) -> tuple:
        return Answers, ()  # a pipeline goes to another process without its documents


class AlbertListener(Model):
    """Stands for an encoder further up the pipeline in the model of a head."""

    def __init__(self, upstream: str):
        """Make a listener without an encoder; the encoder finds it.

        upstream (str): Name of the encoder component, or "*" for whichever there is.
        """
        super().__init__("albert-listener", listener_forward, dims={"nO": None})
        self.upstream_name = upstream
        self.upstream: Any = None  # the AlbertEncoder component, once found
        #: What this head reads out, set with the head's model.
        self.head: HeadShim | Weightless | Later | None = None
        self.answers = Answers()

    def connected(self) -> Any:
        """RETURNS (AlbertEncoder): The encoder component.
        RAISES (ValueError): If there is none in the pipeline.
        """
        if self.upstream is None:
            wanted = "" if self.upstream_name == "*" else f" named {self.upstream_name!r}"
            raise ValueError(
                f"This component listens to an ALBERT encoder{wanted}, and the pipeline has none "
                "before it. Add one before it: "
                f'nlp.add_pipe("albert", name="{self.upstream_name.replace("*", "albert")}", '
                'first=True). Or give the component an encoder of its own: config={"model": '
                '{"tok2vec": {"@architectures": "spacy-albert.Albert.v1"}}}.'
            )
        return self.upstream


def albert_layer(learn_rate_factor: float = 1.0, **settings: Any) -> Model:
    """Make an encoder without weights.

    learn_rate_factor (float): It learns at so many times the optimizer's rate.
    **settings: Arguments of Reader.
    RETURNS (Model[list[Doc], Activations]): The encoder.
    """
    shim = EncoderShim(settings, learn_rate_factor)
    return Model("albert", albert_forward, shims=[shim], dims={"nO": None})


def head_layer(tok2vec: Model, kind: str, **settings: Any) -> Model:
    """Put a head on an encoder or on a listener.

    tok2vec (Model): From `albert_layer`, or an AlbertListener.
    kind (str): One of HEADS.
    **settings: Further arguments of the head.
    RETURNS (Model[list[Doc], list[Tensor]]): Gives one tensor of logits a document.
    RAISES (ValueError): If `tok2vec` is some other model.
    """
    shim = HeadShim(kind, settings)
    attach(shim, tok2vec)
    return Model(
        "albert-head", head_forward, layers=[tok2vec], shims=[shim], attrs={"dropout_rate": 0.0}
    )


def vectors_layer(tok2vec: Model, pooling: str, tokens: bool) -> Model:
    """Read vectors from an encoder or a listener.

    tok2vec (Model): From `albert_layer`, or an AlbertListener.
    pooling (str): "mean" or "cls".
    tokens (bool): Whether tokens have vectors, too.
    RETURNS (Model[list[Doc], list[Tensor]]): Gives (1, H) or (1 + T, H) a document, its own vector
        first.
    RAISES (ValueError): If `tok2vec` is some other model.
    """
    readout = Vectors(pooling, tokens)
    attach(Weightless(readout), tok2vec)
    forward, attrs = partial(vectors_forward, readout), {"pooling": pooling, "tokens": tokens}
    return Model("albert-vectors", forward, layers=[tok2vec], attrs=attrs)


def order_layer(tok2vec: Model) -> Model:
    """Look at the borders between sentences with an encoder or a listener.

    tok2vec (Model): From `albert_layer`, or an AlbertListener.
    RETURNS (Model[list[Doc], list[Orders]]): Gives the logits of each border.
    RAISES (ValueError): If `tok2vec` is some other model.
    """
    attach(Later(), tok2vec)
    return Model("albert-order", order_forward, layers=[tok2vec], shims=[OrderShim()])


def attach(head: HeadShim | Weightless | Later, tok2vec: Model) -> None:
    """Put a head on an encoder or a listener, which from then on reads out what the head asks.

    head (HeadShim | Weightless | Later): The head.
    tok2vec (Model): From `albert_layer`, or an AlbertListener.
    RAISES (ValueError): If it is some other model.
    """
    if tok2vec.name not in ("albert", "albert-listener"):
        raise ValueError(
            f"An ALBERT head needs ALBERT states, and model.tok2vec is {tok2vec.name!r}. Use "
            '{"@architectures": "spacy-albert.AlbertListener.v1"} to listen to an "albert" '
            'component, or {"@architectures": "spacy-albert.Albert.v1"} for an encoder of its own.'
        )
    if isinstance(tok2vec, AlbertListener):
        tok2vec.head = head


def encoder_of(model: Model) -> EncoderShim:
    """Find the encoder that a layer reads with, its own or its upstream's.

    model (Model): An encoder, or a listener.
    RETURNS (EncoderShim): The encoder.
    """
    if isinstance(model, AlbertListener):
        model = model.connected().model
    return cast(EncoderShim, model.shims[0])


def read(model: Model, docs: Sequence[Doc], readouts: Sequence[Readout]) -> list[list[Tensor]]:
    """Annotate: read documents once, for any number of heads.

    model (Model): An encoder, or a listener.
    docs (Sequence[Doc]): The documents.
    readouts (Sequence[Readout]): The heads.
    RETURNS (list[list[Tensor]]): For each head one tensor a document, on the CPU.
    """
    return start_reading(model, docs, readouts)()


def start_reading(
    model: Model, docs: Sequence[Doc], readouts: Sequence[Readout]
) -> Callable[[], list[list[Tensor]]]:
    """Begin to read documents. A GPU goes on by itself; what it is asked meanwhile waits in line.

    model (Model): An encoder, or a listener.
    docs (Sequence[Doc]): The documents.
    readouts (Sequence[Readout]): The heads.
    RETURNS (Callable): Waits until they are read, and gives for each head one tensor a document.
    """
    encoder = encoder_of(model)
    if not docs:
        return lambda: [[] for _ in readouts]
    encoder.module.eval()
    for readout in readouts:
        cast(torch.nn.Module, readout).eval().to(encoder.reader.engine.device)
    together = [readout for readout in readouts if not readout.reads_alone]
    alone = [[readout] for readout in readouts if readout.reads_alone]
    passes = [together, *alone] if together else alone
    n_windows = np.zeros(len(docs), dtype=np.int64)
    waiting: list[Callable[[], list[tuple[Readout, list[Any]]]]] = []
    for heads in passes:
        reading = heads[0].prepare(encoder.reader, docs)
        n_windows += windows_of_docs(reading)
        waiting.append(start_pass(encoder.reader, reading, heads))
    for doc, n in zip(docs, n_windows.tolist()):
        doc._.n_windows = n

    def finish() -> list[list[Any]]:
        answers = dict(chain.from_iterable(arrive() for arrive in waiting))
        return [answers[readout] for readout in readouts]

    return finish


def start_pass(
    reader: Reader, reading: Reading, readouts: Sequence[Readout]
) -> Callable[[], list[tuple[Readout, list[Any]]]]:
    """Begin to read for heads that want the same reading.

    reader (Reader): The encoder.
    reading (Reading): How the documents are to be read.
    readouts (Sequence[Readout]): The heads.
    RETURNS (Callable): Waits until they are read, and gives each head with its answers.
    """
    with torch.inference_mode():
        rows = reader.read(reading, readouts)
        arrive = to_cpu([r.pool(found, reading) for r, found in zip(readouts, rows)])
    return lambda: [(r, r.split(found, reading)) for r, found in zip(readouts, arrive())]


def windows_of_docs(reading: Reading) -> np.ndarray:
    """Count windows.

    reading (Reading): How documents are read.
    RETURNS (np.ndarray): The windows of each, those of all its questions together.
    """
    if reading.questions is None:
        return reading.windows_per_doc
    n_docs = len(reading.questions)
    owners = np.repeat(np.arange(n_docs), [len(of_doc) for of_doc in reading.questions])
    return np.bincount(owners, reading.windows_per_doc, n_docs).astype(np.int64)


def activate(model: Model, docs: Sequence[Doc], is_train: bool) -> Activations:
    """Train: read documents and keep the graph.

    model (Model): An encoder, or a listener.
    docs (Sequence[Doc]): The documents.
    is_train (bool): Whether the encoder itself is being trained.
    RETURNS (Activations): The states, for heads to read.
    """
    return Activations(encoder_of(model), docs, is_train)


def albert_forward(
    model: Model, docs: Sequence[Doc], is_train: bool
) -> tuple[Activations, Callable]:
    """Documents -> activations."""
    activations = activate(model, docs, is_train)

    def backprop(_: Any) -> Sequence[Doc]:
        activations.backward(is_last=False)  # for all it knows
        return docs

    return activations, backprop


def listener_forward(
    model: AlbertListener, docs: Sequence[Doc], is_train: bool
) -> tuple[Activations, Callable]:
    """Documents -> the activations that the encoder has for them in this step of training."""
    # The encoder goes backward itself, when every head has left its gradient
    return model.connected().activations(docs), lambda _: docs


def head_forward(
    model: Model, docs: Sequence[Doc], is_train: bool
) -> tuple[list[Tensor], Callable]:
    """Documents -> one tensor of logits a document."""
    tok2vec = model.layers[0]
    shim = cast(HeadShim, model.shims[0])
    head: Any = shim.module
    if not is_train:
        return answers_of(tok2vec, docs, head), lambda _: docs
    activations, backprop_encoder = tok2vec(docs, is_train)
    head.train().to(encoder_of(tok2vec).reader.engine.device)
    head.set_dropout(model.attrs["dropout_rate"])
    logits = activations.apply(head)

    def backprop(gradient: Gradient) -> Sequence[Doc]:
        if gradient.by_doc:
            roots = logits if gradient.of is None else gradient.of
            torch.autograd.backward(roots, gradient.by_doc)
        shim.n_terms += gradient.n_terms
        activations.n_terms[head] = gradient.n_terms
        backprop_encoder(activations)
        return docs

    return logits, backprop


def vectors_forward(
    readout: Vectors, model: Model, docs: Sequence[Doc], is_train: bool
) -> tuple[list[Tensor], Callable]:
    """Documents -> (1, H) or (1 + T, H) a document. There is nothing to learn."""
    return answers_of(model.layers[0], docs, readout), lambda _: docs


def order_forward(
    model: Model, docs: Sequence[Doc], is_train: bool
) -> tuple[list[Orders], Callable]:
    """Documents -> the logits of their borders. There is nothing to learn."""
    encoder = encoder_of(model.layers[0])
    reader, head = encoder.reader, cast(TextHead, cast(OrderShim, model.shims[0]).module)
    sentences = [[sentence.text for sentence in sentences_of(doc)] for doc in docs]
    pieces = reader.tokenizer(list(chain.from_iterable(sentences)))
    borders = cut_borders(pieces, list(map(len, sentences)), reader.window)
    logits = torch.empty(0, 2)
    if len(borders.shown):
        encoder.module.eval()
        head.eval().to(reader.engine.device)
        with torch.inference_mode():
            (logits,) = to_cpu(reader.read(borders.reading, [head]))()
    shown = np.split(borders.shown, np.cumsum(borders.per_doc)[:-1])
    by_doc = logits.split(borders.per_doc.tolist()) if docs else ()
    return list(map(Orders, by_doc, shown)), lambda _: docs


def answers_of(tok2vec: Model, docs: Sequence[Doc], readout: Readout) -> list[Tensor]:
    """Take what the encoder has already read out for a head, and have it read the rest.

    tok2vec (Model): An encoder, or a listener.
    docs (Sequence[Doc]): The documents.
    readout (Readout): The head.
    RETURNS (list[Tensor]): One tensor a document.
    """
    waiting = tok2vec.answers if isinstance(tok2vec, AlbertListener) else {}
    answers = [waiting.pop(doc, None) for doc in docs]
    missing = [
        i
        for i, (answer, doc) in enumerate(zip(answers, docs))
        if answer is None or not readout.fits(answer, doc)
    ]
    if missing:
        (found,) = read(tok2vec, [docs[i] for i in missing], [readout])
        for i, answer in zip(missing, found):
            answers[i] = answer
    return cast(list[Tensor], answers)
