"""Networks compiled ahead of time: what they are called, where they are kept, how they are made and how they run.

`keys`, `manifest`, `locks`, `cache`, `mirror` and `targets` know nothing of torch, so the command line can use them;
`weights`, `components`, `export` and the back ends (`eager`, `compiled`, `tensorrt`) are torch's side.
"""
