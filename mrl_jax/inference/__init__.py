"""Trained models at work: embedding, transcription, translation, search."""
