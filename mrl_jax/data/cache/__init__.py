"""Feature cache: outputs of frozen towers on disk."""
