"""A simulated board: physics, a board in virtual time, and the meter watching it. All it yields is simulated."""
