"""What can be typed: ``app`` (what all commands share), ``examples``, and the commands, by what they are about."""
