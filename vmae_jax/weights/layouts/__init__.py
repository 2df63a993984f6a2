"""Names and shapes of the parameters in other programs, as rules in both directions."""
