"""Distributed hyperparameter search for Neural Operator Agents."""
