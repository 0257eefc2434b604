"""How good the recogniser is: word errors, runs over test sets, reports, comparisons."""
