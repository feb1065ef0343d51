"""Assertions of the twin say what differs, as those of a test do."""

import pytest

pytest.register_assert_rewrite("tests.unit.core.twin")
