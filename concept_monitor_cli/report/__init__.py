"""What people read: figures, the page, exports."""
