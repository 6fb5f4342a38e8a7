"""One launch, from a plan to the running payload."""
