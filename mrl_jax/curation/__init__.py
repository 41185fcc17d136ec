"""From raw recordings and texts to training manifests: sources, stages, the data card."""
