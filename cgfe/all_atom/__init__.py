"""All-atom reference data: sampling by the batched kernel or OpenMM, mean forces, packing."""
