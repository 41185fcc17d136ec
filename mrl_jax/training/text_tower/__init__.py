"""The text stage: a text tower trained whole on pairs of texts."""
