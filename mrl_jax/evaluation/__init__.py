"""Evaluation: encode once, search, measure, report."""
