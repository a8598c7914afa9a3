"""A trial that does nothing: a method, a network and a data set as a user would bring them, of almost no work."""
