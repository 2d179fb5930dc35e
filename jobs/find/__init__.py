"""`submit find`: the heads that attend as asked, without a scan."""
