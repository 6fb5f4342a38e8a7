"""CPUs of a job's own: where they are, who has which, and how they are taken."""
