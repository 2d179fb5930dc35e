"""The report: one self-contained HTML file, its parts in `assets/`, its data packed into it."""
