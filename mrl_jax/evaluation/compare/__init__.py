"""`eval.py compare`."""
