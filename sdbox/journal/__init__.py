"""What the journal is told of a job, and what goes there of what it writes."""
