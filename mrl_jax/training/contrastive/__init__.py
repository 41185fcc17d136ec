"""Late fusion and dual encoder: a head trained between frozen towers."""
