"""What is accepted where nobody says otherwise."""

MAX_SECONDS = 3600.0
"""The longest recording that is embedded or transcribed: an hour."""
