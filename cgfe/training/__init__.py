"""Data module, Lightning module, losses, callbacks and run directories."""
