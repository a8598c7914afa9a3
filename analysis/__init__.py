"""Tables, figures and comparisons with printed values, made from finished sweeps."""
