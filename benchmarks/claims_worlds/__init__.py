"""The worlds of `benchmarks/claims.py`: what they are made of, and how their towers are trained."""
