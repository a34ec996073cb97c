"""From scores, or moments of gradients, to a map, its standard error and its reliability."""
