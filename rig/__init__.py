"""The host: measures boards, fits their cost models, and compresses CNNs to a power budget."""

__version__ = "0.1.0"
