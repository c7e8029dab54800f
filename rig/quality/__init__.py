"""What a measured record is worth: quantities with their uncertainty budgets, or the reason why it may not be used."""
