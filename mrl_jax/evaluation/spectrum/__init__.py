"""`eval.py spectrum`."""
