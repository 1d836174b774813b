"""Searches over training configurations: who suggests, who compares, who runs, what is kept."""
