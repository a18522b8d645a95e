"""One function for each command and each step of a notebook; `import minitron` re-exports them lazily."""
