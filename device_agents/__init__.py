"""The agent that runs on the device: Python standard library only, Python 3.6 and newer."""
