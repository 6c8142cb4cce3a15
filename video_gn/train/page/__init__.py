"""The page of a test: one HTML file that shows what a network gets right and wrong, and its figures as tables."""
