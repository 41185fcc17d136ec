"""Readers of published and local data sets."""
