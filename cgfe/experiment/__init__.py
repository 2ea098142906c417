"""Many runs: local sweeps, and what they say together."""
