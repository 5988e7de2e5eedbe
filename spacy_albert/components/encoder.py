from collections.abc import Callable, Iterable, Iterator
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example, validate_examples
from spacy.util import registry
from thinc.api import Model, Optimizer
from torch import Tensor

from ..heads import States
from ..inputs import bring
from ..layers import Activations, AlbertListener, activate, start_reading
from ..shims import EncoderShim
from . import transformer
from .pipe import AlbertPipe


class AlbertEncoder(AlbertPipe):
    """ALBERT, read once for every component that listens.

    In annotation the encoder hands each listening head the answers to its questions: a few numbers
    a token or a document. The states themselves live no longer than a batch.
    """

    def __init__(self, vocab: Any, model: Model, name: str = "albert") -> None:
        """Make the encoder component.

        vocab (Vocab): The shared vocabulary.
        model (Model): From `albert_layer`.
        name (str): The name of the component.
        """
        self.vocab = vocab
        self.model = model
        self.name = name
        self.cfg = {}
        self.listener_map: dict[str, list[Model]] = {}
        self._activations: Activations | None = None
        self._waiting_step: Optimizer | None = None
        model.attrs["replace_listener"] = transformer.replace_listener
        model.attrs["replace_listener_cfg"] = transformer.replace_listener_cfg

    # Annotation: read once, answer every listener

    def predict(self, docs: Iterable[Doc]) -> list[list[Tensor]]:
        """Read documents once, for all that listen.

        docs (Iterable[Doc]): The documents.
        RETURNS (list[list[Tensor]]): For each document, one answer a listener.
        """
        return self.start(list(docs))()

    def start(self, docs: list[Doc]) -> Callable[[], list[list[Tensor]]]:
        """Begin to read documents. A GPU computes while the next ones are prepared.

        docs (list[Doc]): The documents.
        RETURNS (Callable): Gives what `predict` gives, as soon as it is there.
        """
        self._settle()
        readouts = [head.module for head in self._heads()] + [States()] * self._is_bridged
        if not readouts:
            return lambda: [[] for _ in docs]
        finish = start_reading(self.model, docs, readouts)
        return lambda: [list(of_doc) for of_doc in zip(*finish())]

    @property
    def runs_ahead(self) -> bool:  # type: ignore[override]
        """RETURNS (bool): Whether the device computes by itself."""
        return self._shim.has_weights and self._shim.reader.engine.device.type == "cuda"

    def set_annotations(self, docs: Iterable[Doc], answers: Iterable[list[Tensor]]) -> None:
        """Hand the answers to the listeners.

        docs (Iterable[Doc]): The documents.
        answers (Iterable[list[Tensor]]): From `predict`.
        """
        listeners = [node for node in self._albert_listeners() if node.head.has_weights]
        for doc, of_doc in zip(docs, answers):
            for listener, answer in zip(listeners, of_doc):
                listener.answers[doc] = answer
            if len(of_doc) > len(listeners):
                transformer.annotate(doc, of_doc[-1])

    # Training: the heads' gradients meet in the activations

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Read the documents for the heads that are going to learn from them.

        The encoder has no loss of its own. It goes backward when the heads have left their
        gradients: in `finish_update`, or, in `nlp.update` with an optimizer, which finishes each
        component before it updates the next, as the next update begins.

        examples (Iterable[Example]): A batch of examples.
        drop (float): Unused: dropout inside the encoder is a setting of
            spacy-albert.Checkpoint.v1, or of the checkpoint itself.
        sgd (Optimizer): The optimizer, if the step is to be taken here.
        losses (dict[str, float]): The losses by component.
        RETURNS (dict[str, float]): The losses.

        DOCS: https://spacy.io/api/pipe#update
        """
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)
        examples = list(examples)
        validate_examples(examples, "AlbertEncoder.update")
        bring(examples)
        self._settle()
        self._activations, self._waiting_step = None, None
        docs = [eg.predicted for eg in examples]
        if any(len(doc) for doc in docs):
            self._activations = activate(self.model, docs, is_train=True)
            transformer.send(self._transformer_listeners(), self._activations)
        if sgd not in (None, False):
            self.finish_update(sgd)
        return losses

    def finish_update(self, sgd: Optimizer) -> None:
        """Go backward and take a step, or wait for the heads with both.

        sgd (Optimizer): The optimizer.

        DOCS: https://spacy.io/api/pipe#finish_update
        """
        if self._activations is not None and self._activations.is_awaited:
            self._waiting_step = sgd
        else:
            self._settle(is_last=True)
            self.model.finish_update(sgd)

    def _settle(self, is_last: bool = False) -> None:
        """Bring in the gradients that heads have left, and take the step that waited for them.

        is_last (bool): Whether a step follows in any case.
        """
        if self._activations is None or self._activations.is_awaited:
            return
        self._activations.backward(is_last or self._waiting_step is not None)
        self._activations = None
        if self._waiting_step is not None:
            self.model.finish_update(self._waiting_step)
            self._waiting_step = None

    def activations(self, docs: list[Doc]) -> Activations:
        """Look up what this step of training made of some documents.

        docs (list[Doc]): The documents of a head's update.
        RETURNS (Activations): Those of this encoder's own update; if the encoder is frozen, new
            ones, which teach it nothing.
        RAISES (ValueError): If the encoder was updated with other documents.
        """
        if self._activations is not None and self._activations.is_of(docs):
            return self._activations
        if self._activations is not None and self._activations.is_awaited:
            raise ValueError(
                f"The encoder {self.name!r} was updated with other documents than the component "
                "that listens to it. Update both with the same examples; if a component between "
                "them makes new Doc objects, take it out of [training.annotating_components]."
            )
        self._settle()
        self._activations = activate(self.model, docs, is_train=False)
        return self._activations

    def get_loss(self, examples: Iterable[Example], scores: Any) -> tuple[float, float]:
        """The encoder learns from the losses of its heads only."""
        return 0.0, 0.0

    # Weights

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        encoder: Callable[[EncoderShim], Any] | None = None,
    ) -> None:
        """Get the weights to start from.

        get_examples (Callable): Unused.
        nlp (Language): The pipeline.
        encoder (Callable): spacy-albert.Checkpoint.v1 or spacy-albert.Scratch.v1. May be left out
            where the encoder has weights already.

        DOCS: https://spacy.io/api/pipe#initialize
        """
        if encoder is not None:
            encoder(self._shim)
        _ = self._shim.reader  # fails here, and says what to do, when there are no weights
        self._loaded()

    def require_weights(self, nlp: Language) -> None:
        """Get the weights to start from if that has not been done: spaCy initializes no frozen
        components, and the heads need something to learn from.

        nlp (Language): The pipeline, whose config says where they are.
        """
        if not self._shim.has_weights:
            settings = nlp.config.interpolate()["initialize"]["components"].get(self.name, {})
            self.initialize(list, nlp=nlp, **registry.resolve(settings))

    @property
    def _shim(self) -> EncoderShim:
        return self.model.shims[0]  # type: ignore[return-value]

    def _loaded(self) -> None:
        if self._shim.has_weights:
            width = self._shim.reader.model.config.hidden_size
            for node in [self.model, *self._transformer_listeners()]:
                node.set_dim("nO", width, force=True)

    def use_params(self, params: dict) -> Iterator[None]:
        """Compute with other weights for a while, such as an optimizer's averages.

        params (dict): The weights.

        DOCS: https://spacy.io/api/pipe#use_params
        """
        self._settle()  # a step that waits is one of our own weights
        yield from super().use_params(params)

    def to_bytes(self, *, exclude: Iterable[str] = ()) -> bytes:
        self._settle()
        return super().to_bytes(exclude=exclude)

    def to_disk(self, path: Any, *, exclude: Iterable[str] = ()) -> None:
        self._settle()
        super().to_disk(path, exclude=exclude)

    # Listeners: spaCy's ListenedToComponent

    @property
    def listeners(self) -> list[Model]:
        """RETURNS (list[Model]): The layers that listen to this component."""
        return [node for nodes in self.listener_map.values() for node in nodes]

    @property
    def listening_components(self) -> list[str]:
        """RETURNS (list[str]): The names of the components that listen."""
        return list(self.listener_map)

    def add_listener(self, listener: Model, component_name: str) -> None:
        """Add a listener of a component further down the pipeline.

        listener (Model): The listener.
        component_name (str): The component it is in.
        RAISES (ValueError): If it is ours, and in a model that has no use for ALBERT's states.
        """
        if isinstance(listener, AlbertListener) and listener.head is None:
            raise ValueError(
                f"Component {component_name!r} has a spacy-albert.AlbertListener.v1 in its model, "
                "and only our heads understand it. Give spaCy's own components a "
                "spacy-transformers.TransformerListener.v1: it listens to this encoder, too."
            )
        nodes = self.listener_map.setdefault(component_name, [])
        if listener not in nodes:
            nodes.append(listener)
        if isinstance(listener, AlbertListener):
            listener.upstream = self
        else:
            transformer.make_room()
        self._loaded()

    def remove_listener(self, listener: Model, component_name: str) -> bool:
        """Remove a listener.

        listener (Model): The listener.
        component_name (str): The component it is in.
        RETURNS (bool): Whether it was there.
        """
        nodes = self.listener_map.get(component_name, [])
        if listener not in nodes:
            return False
        nodes.remove(listener)
        if not nodes:
            del self.listener_map[component_name]
        if isinstance(listener, AlbertListener):
            listener.upstream = None
        return True

    def find_listeners(self, component: Any) -> None:
        """Find the listeners in a component that mean this encoder.

        component (Callable): A component further down the pipeline.
        """
        model = getattr(component, "model", None)
        nodes: Iterable[Any] = model.walk() if isinstance(model, Model) else ()
        for node in nodes:
            listens = isinstance(node, AlbertListener) or transformer.is_listener(node)
            if listens and node.upstream_name in ("*", self.name):
                self.add_listener(node, component.name)

    def _albert_listeners(self) -> list[Any]:
        # With "*" as upstream every encoder finds a head, and the last one gets it
        nodes = [node for node in self.listeners if isinstance(node, AlbertListener)]
        return [node for node in nodes if node.upstream is self]

    def _transformer_listeners(self) -> list[Any]:
        return [node for node in self.listeners if not isinstance(node, AlbertListener)]

    def _heads(self) -> list[Any]:
        heads = [listener.head for listener in self._albert_listeners()]
        return [head for head in heads if head is not None and head.has_weights]

    @property
    def _is_bridged(self) -> bool:
        return bool(self._transformer_listeners())
