"""Recordings: decoding, encoding, augmentation."""
