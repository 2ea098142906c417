"""The energies and forces of `cgfe.model`, fast."""
