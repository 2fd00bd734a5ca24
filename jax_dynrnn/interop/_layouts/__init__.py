"""How each framework lays out the weights of a layer, and the conversion between two of them."""
