"""What the energy is; autograd is the truth."""
