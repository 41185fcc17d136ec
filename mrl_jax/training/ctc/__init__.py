"""Fine-tuning a CTC recogniser."""
