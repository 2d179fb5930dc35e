"""Where heads look whatever is there: scores taken apart into a part of positions and a part of content."""
