"""All-atom reference data: the OpenMM sampler."""
