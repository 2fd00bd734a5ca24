"""How each framework lays out the weights of a layer, and the way from one to another."""
