"""The flows that people know, run against a gateway and checked on HTTP and in the ledger.

`faregate report FLOW…|all` runs them (`run`), each step says what it expected and what came, and
the report is written as text, as one page of HTML, as JSON, and as a log of errors (`writing`).
"""
