"""`submit relations`: which heads map words to related words."""
