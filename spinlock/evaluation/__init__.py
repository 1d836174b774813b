"""What a trained tokenizer says of a dataset: its tokens on disk, how good they are, pictures."""
