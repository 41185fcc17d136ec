"""From recordings and texts on disk to arrays; nothing here knows a model."""
