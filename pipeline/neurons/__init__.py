"""What the heads of layer 0 hand to the neurons of the first MLP, as a bag of tokens."""
