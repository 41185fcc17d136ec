"""A whole corpus, texts or recordings, to files of vectors: resumable, in shards."""
