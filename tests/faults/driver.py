"""`python -m spacy albert`, which also knows the store that fails."""

from spacy.cli._util import setup_cli

from .flaky import register

if __name__ == "__main__":
    register()
    setup_cli()
