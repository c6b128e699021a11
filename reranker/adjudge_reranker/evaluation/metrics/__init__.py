"""Figures, each a pure function from numpy arrays to a frozen dataclass."""
