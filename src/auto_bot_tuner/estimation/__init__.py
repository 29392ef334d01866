"""What a run would take, before it starts: memory by part, time, and what makes it fit. `--dry-run` prints it."""
