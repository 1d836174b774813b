"""Pictures of a tokenizer and its training: PNG files, and one HTML page that holds them all."""

from spinlock.evaluation.pictures.draw import draw_run

__all__ = ["draw_run"]
