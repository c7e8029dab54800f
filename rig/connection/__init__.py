"""From the host to the agent: transports (this machine, SSH), the link over them, sessions and clocks."""
