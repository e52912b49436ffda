"""Reports: one writer for HTML, Markdown, LaTeX and figures, their style, and what they were made from."""
