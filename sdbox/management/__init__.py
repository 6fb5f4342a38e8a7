"""Jobs that run, whoever started them: found, looked at, and managed."""
