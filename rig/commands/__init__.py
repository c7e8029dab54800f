"""One file a command; each reads top to bottom as its data flow."""
