"""Which widths and blocks a network keeps: what they are worth, what they cost, and the choice between them."""
