"""A stored run read again: through today's analysis, and as a device that answers from its evidence."""
