"""What everything else stands on: array types, configs, files, errors, processes."""
