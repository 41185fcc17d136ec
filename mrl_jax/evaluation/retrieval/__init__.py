"""`eval.py retrieval`."""
