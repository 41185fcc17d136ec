"""Search over vectors: exact, quantised, in two stages."""
