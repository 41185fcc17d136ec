"""`eval.py tradeoff`."""
