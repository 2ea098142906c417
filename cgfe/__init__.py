"""cgfe: coarse-grained force fields whose free-energy surface is right, not only their forces."""

__version__ = "0.1.0"
