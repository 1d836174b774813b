"""Training runs: configuration, tasks, and the one loop that trains them all."""
