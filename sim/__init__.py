"""What both engines share, and the simulated engine."""

__version__ = "0.1.0"
