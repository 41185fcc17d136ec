"""Recordings to a data set of records, by TFDS and ArrayRecord."""
