"""`eval.py robustness`."""
