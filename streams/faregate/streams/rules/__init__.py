"""What the streams decide: pure functions over plain data, without Faust, clock or I/O.

What they keep is plain JSON (dicts, lists, numbers, strings), since it is what a table holds.
Amounts are micro-credits.
"""
