"""A run folder as a report: HTML, PDF, or a PNG a figure."""
