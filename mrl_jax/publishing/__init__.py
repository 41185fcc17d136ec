"""A trained model on the hub: what its repository holds, its card, the upload."""
