"""Label images in the browser: the page, the server behind it, and which image to label next.

The package may import training, inference and what lies beneath them. Only `server` needs the extra `kpnet[label]`.
"""
