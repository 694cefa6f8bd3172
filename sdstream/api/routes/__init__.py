"""The endpoints, by subject. Each class takes the shared `Context`; each method is one operation."""
