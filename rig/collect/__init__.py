"""A campaign: what is measured, in which order, and how it goes on after a kill."""
