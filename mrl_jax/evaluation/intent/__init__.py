"""`eval.py intent`."""
