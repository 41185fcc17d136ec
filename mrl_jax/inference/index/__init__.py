"""Documents and their vectors on disk, to be searched by speech, text or vectors."""
