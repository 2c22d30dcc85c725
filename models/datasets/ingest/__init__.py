"""Reading uploaded files: archives, arrays and images to rows of a dataset, within limits."""
