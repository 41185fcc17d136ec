"""`eval.py transcribe`."""
