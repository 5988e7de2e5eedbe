"""Components that go wrong when a text tells them to. The tests pass this file as --code."""

import os
import signal
import time

from spacy.language import Language
from spacy.tokens import Doc


@Language.component("stumble")
def stumble(doc: Doc) -> Doc:
    if "STUMBLE" in doc.text:
        raise ValueError(f"cannot read {doc.text[:7]}")
    if "DIE" in doc.text:
        os.kill(os.getpid(), signal.SIGKILL)
    if "HANG" in doc.text:
        time.sleep(3600)
    if "SLOW" in doc.text:
        time.sleep(0.03)
    return doc


@Language.factory("stumble_together")
class StumbleTogether:
    """Takes its whole batch down with it, as many components do."""

    def __init__(self, nlp: Language, name: str) -> None:
        pass

    def __call__(self, doc: Doc) -> Doc:
        return stumble(doc)

    def pipe(self, stream, batch_size):
        docs = list(stream)
        for doc in docs:
            stumble(doc)
        yield from docs


@Language.factory("stumble_on")
class StumbleOn(StumbleTogether):
    """Tells the error handler, and passes on what it failed on."""

    def set_error_handler(self, handler) -> None:
        self.handler = handler

    def pipe(self, stream, batch_size):
        for doc in stream:
            try:
                stumble(doc)
            except ValueError as error:
                self.handler("stumble_on", self, [doc], error)
            yield doc
