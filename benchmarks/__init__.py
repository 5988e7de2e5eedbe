"""How fast spacy-albert is beside its peers, and where its time goes: `python -m benchmarks`."""
