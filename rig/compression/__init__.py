"""Compression: methods that offer options, a cost side that prices them, and one loop that closes on the device."""
